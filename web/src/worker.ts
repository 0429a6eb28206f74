// The program of the shared worker, which carries the streams of all tabs of the page.

import { Hub } from "./rpc/shared/hub";
import { PING_MS, type ToWorker } from "./rpc/shared/protocol";

// The library types of TypeScript for workers and for pages exclude each other.
const scope = globalThis as unknown as { onconnect: ((event: MessageEvent) => void) | null };
const ROTATE_MS = 100;
const hub = new Hub((url, init) => fetch(url, init));

scope.onconnect = (event) => {
  const port = event.ports[0];
  if (!port) return;
  const receive = hub.connect(port);
  port.onmessage = (message: MessageEvent<ToWorker>) => receive(message.data);
};
setInterval(() => hub.dropSilentTabs(), PING_MS);
setInterval(() => hub.rotate(), ROTATE_MS);

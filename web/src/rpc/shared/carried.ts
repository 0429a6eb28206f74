// One stream that the shared worker carries for one or several tabs.

import { envelopesOf } from "./envelopes";
import type { Tab } from "./hub";
import type { FromWorker } from "./protocol";

// A tab may have this many unprocessed bytes of a stream. A page of a log has at most half of that.
const WINDOW_BYTES = 4 << 20;

/** A function that makes an HTTP request, such as `fetch`. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

interface StreamRequest {
  readonly url: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Uint8Array<ArrayBuffer>;
}

/** One connection of a stream. */
interface Run {
  readonly abort: AbortController;
}

/** A tab's part in a stream. */
export class Subscription {
  /** The connection whose messages the tab gets; null before the tab has got the head of the answer. */
  run: Run | null = null;
  private unprocessed = 0;
  private wake: () => void = () => undefined;

  constructor(
    readonly tab: Tab,
    private readonly id: number,
    private readonly stream: Carried,
  ) {}

  get isFull(): boolean {
    return this.unprocessed > WINDOW_BYTES;
  }

  /** Resolves when the tab has processed enough for more data. */
  hasRoom(): Promise<void> {
    return this.isFull ? new Promise((resolve) => (this.wake = resolve)) : Promise.resolve();
  }

  acknowledge(bytes: number): void {
    this.unprocessed -= bytes;
    if (!this.isFull) this.wake();
  }

  head(response: Response): void {
    this.post({ kind: "head", id: this.id, status: response.status, headers: [...response.headers] });
  }

  data(bytes: Uint8Array<ArrayBuffer>): void {
    this.unprocessed += bytes.length;
    this.post({ kind: "data", id: this.id, bytes });
  }

  /** Ends the tab's part in the stream. The tab is told why. */
  finish(kind: "end" | "suspended"): void;
  finish(kind: "broken", text: string): void;
  finish(kind: "end" | "broken" | "suspended", text = ""): void {
    this.post(kind === "broken" ? { kind, id: this.id, text } : { kind, id: this.id });
    this.tab.subscriptions.delete(this.id);
    this.leave();
  }

  /** Ends the tab's part in the stream, because the tab needs it no more. */
  leave(): void {
    this.wake();
    this.stream.remove(this);
  }

  private post(message: FromWorker): void {
    this.tab.port.postMessage(message);
  }
}

/**
 * A stream. `key` is null if tabs cannot share the stream. A lasting stream is never suspended. `onEnd` is called
 * once, when no connection is open.
 */
export class Carried {
  /** When the newest connection was opened, in ms. */
  openedAtMs: number;
  /** When the newest connection has brought its last message, in ms; 0 before its first message. */
  heardAtMs = 0;
  private readonly subscriptions = new Set<Subscription>();
  private readonly runs = new Set<Run>();
  private hasEnded = false;

  constructor(
    readonly key: string | null,
    readonly isLasting: boolean,
    private readonly request: StreamRequest,
    private readonly open: Fetch,
    private readonly nowMs: () => number,
    private readonly onEnd: (stream: Carried) => void,
  ) {
    this.openedAtMs = nowMs();
  }

  /** When the user has last looked at a tab with this stream, as a number in order. */
  get seenAt(): number {
    return Math.max(...[...this.subscriptions].map(({ tab }) => tab.seenAt));
  }

  /** Adds a tab, and opens a connection that begins with the whole state. */
  add(tab: Tab, id: number): Subscription {
    const subscription = new Subscription(tab, id, this);
    this.subscriptions.add(subscription);
    const run = { abort: new AbortController() };
    this.runs.add(run);
    this.openedAtMs = this.nowMs();
    this.heardAtMs = 0;
    void this.follow(run);
    return subscription;
  }

  /** Removes a tab. The last tab ends the stream. */
  remove(subscription: Subscription): void {
    this.subscriptions.delete(subscription);
    if (this.subscriptions.size === 0) this.end();
  }

  /** Closes the stream for all tabs, to free its connection. */
  suspend(): void {
    for (const subscription of [...this.subscriptions]) subscription.finish("suspended");
  }

  private end(): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    for (const run of this.runs) run.abort.abort();
    this.onEnd(this);
  }

  private async follow(run: Run): Promise<void> {
    const { url, headers, body } = this.request;
    try {
      const init = { method: "POST", headers: headers.map(([name, value]) => [name, value] as [string, string]), body };
      const response = await this.open(url, { ...init, credentials: "same-origin", signal: run.abort.signal });
      if (!response.body || !response.headers.get("content-type")?.startsWith("application/connect+")) {
        await this.refuse(run, response);
        return;
      }
      let isFirst = true;
      for await (const envelope of envelopesOf(response.body)) {
        if (isFirst) this.switchTo(run, response);
        isFirst = false;
        this.heardAtMs = this.nowMs();
        await this.send(run, envelope);
      }
      for (const one of this.followersOf(run)) {
        // A proxy may end an answer before its first message. The tab must get the answer, or it would wait for ever.
        if (one.run === null) one.head(response);
        one.finish("end");
      }
    } catch (error) {
      for (const one of this.followersOf(run)) one.finish("broken", String(error));
    } finally {
      this.runs.delete(run);
    }
  }

  /** Passes an answer that is no stream, such as an error of a proxy, to the tabs that wait for this connection. */
  private async refuse(run: Run, response: Response): Promise<void> {
    const bytes = new Uint8Array(await response.arrayBuffer());
    for (const one of this.followersOf(run)) {
      if (one.run === null) {
        one.head(response);
        one.data(bytes);
        one.finish("end");
      } else {
        one.finish("broken", `HTTP status ${response.status}`);
      }
    }
  }

  /** Makes all tabs follow a connection that has brought its first message, and closes the earlier connections. */
  private switchTo(run: Run, response: Response): void {
    if (run.abort.signal.aborted) return;
    for (const one of this.subscriptions) {
      if (one.run === null) one.head(response);
      one.run = run;
    }
    for (const other of [...this.runs]) {
      if (other === run) break; // A later connection serves a tab that came later.
      this.runs.delete(other);
      other.abort.abort();
    }
  }

  private async send(run: Run, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    for (const one of this.followersOf(run)) {
      if (one.run !== run) continue;
      if (this.key !== null && one.isFull) one.finish("broken", "the tab is too slow");
      else one.data(bytes);
    }
    if (this.key === null) await Promise.all([...this.subscriptions].map((one) => one.hasRoom()));
  }

  /** Returns the tabs that follow a connection, and those that wait for one if no later connection is being opened. */
  private followersOf(run: Run): Subscription[] {
    const isNewest = [...this.runs].at(-1) === run;
    return [...this.subscriptions].filter((one) => one.run === run || (one.run === null && isNewest));
  }
}

// The hub of the shared worker: it opens the streams of all tabs, and gives tabs with the same request one stream.
//
// 1. A stream that may be shared begins with the whole state. If a further tab asks for the same stream, the hub opens
//    the stream again for all its tabs. Once the new connection has brought its first message, the old one is closed.
// 2. At most `limit` streams are open. If one more is needed, the stream whose tabs the user has not looked at for the
//    longest time is suspended.
// 3. Suspended streams of visible tabs take turns: every few seconds, each of them is open until it has nothing more to
//    say. The streams of the tab that the user has looked at last stay open, except one if they need all connections.
// 4. Lasting streams are never suspended, because the cluster ends a terminal whose stream is closed. One connection is
//    kept for other streams: if lasting streams would use all connections, a further lasting stream is an ordinary one.
// 5. A stream of one tab is read only as fast as the tab processes it. A shared stream is not delayed by a slow tab:
//    the slow tab loses the stream, and opens it again.

import { Carried, type Fetch, type Subscription } from "./carried";
import { HTTP1_STREAMS, PING_MS, TURN_PAUSE_MS, type FromWorker, type ToWorker } from "./protocol";

// A tab that has sent nothing for this time has crashed.
const GONE_MS = 9 * PING_MS;
// A turn ends when the stream has been quiet for QUIET_MS, and lasts at most TURN_MS.
const QUIET_MS = 250;
const TURN_MS = 2_000;
const RESERVED_MS = 1_000; // A tab opens its stream within this time, or has been closed.

/** The port to a tab. */
export interface Port {
  postMessage(message: FromWorker): void;
}

/** A tab of the page. `seenAt` is the order in which the user has looked at the tabs. */
export interface Tab {
  readonly port: Port;
  seenAt: number;
  heardAtMs: number;
  readonly subscriptions: Map<number, Subscription>;
}

/** A suspended stream that waits for its turn since a time in ms. */
interface Turn {
  readonly tab: Tab;
  readonly id: number;
  readonly sinceMs: number;
}

/** All tabs and streams. `open` makes an HTTP request, and `nowMs` returns the time in ms. */
export class Hub {
  private readonly tabs = new Set<Tab>();
  private readonly streams = new Set<Carried>();
  /** The suspended streams that wait for their turn, in the order of their turns. */
  private waiting: Turn[] = [];
  /** The turns that were given to tabs, and whose streams the tabs have not opened yet. */
  private given: { readonly tab: Tab; readonly atMs: number }[] = [];
  private looks = 0;
  private limit = HTTP1_STREAMS;

  constructor(
    private readonly open: Fetch,
    private readonly nowMs: () => number = Date.now,
  ) {}

  /** The number of open streams. */
  get size(): number {
    return this.streams.size;
  }

  /** Adds a tab, and returns the function that takes the tab's messages. */
  connect(port: Port): (message: ToWorker) => void {
    const tab: Tab = { port, seenAt: ++this.looks, heardAtMs: this.nowMs(), subscriptions: new Map() };
    this.tabs.add(tab);
    port.postMessage({ kind: "ready" });
    return (message) => this.receive(tab, message);
  }

  /**
   * Ends the streams of tabs that have crashed. Call this method about every `PING_MS`.
   *
   * A tab of a computer that has slept is silent, too. Such a tab is told that its streams are broken, and opens them
   * again.
   */
  dropSilentTabs(): void {
    for (const tab of [...this.tabs]) {
      if (this.nowMs() - tab.heardAtMs <= GONE_MS) continue;
      for (const one of [...tab.subscriptions.values()]) one.finish("broken", "the tab was silent for too long");
      for (const turn of this.waiting) if (turn.tab === tab) tab.port.postMessage({ kind: "turn", id: turn.id });
      this.leave(tab);
    }
  }

  /** Gives connections to suspended streams, in turn. Call this method some times per second. */
  rotate(): void {
    const nowMs = this.nowMs();
    while (this.waiting.length > 0 && nowMs - this.waiting[0]!.sinceMs >= TURN_PAUSE_MS) {
      if (this.streams.size + this.reserved(nowMs) >= this.limit) {
        const ended = this.endedTurn(nowMs);
        if (!ended) return;
        ended.suspend();
      }
      const { tab, id } = this.waiting.shift()!;
      this.given.push({ tab, atMs: nowMs });
      tab.port.postMessage({ kind: "turn", id });
    }
  }

  private receive(tab: Tab, message: ToWorker): void {
    this.tabs.add(tab); // A tab that the browser has kept for the back button may come back.
    tab.heardAtMs = this.nowMs();
    switch (message.kind) {
      case "hello":
        this.limit = message.limit;
        break;
      case "open":
        this.subscribe(tab, message);
        break;
      case "close":
        this.unsubscribe(tab, message.id);
        break;
      case "ack":
        tab.subscriptions.get(message.id)?.acknowledge(message.bytes);
        break;
      case "seen":
        tab.seenAt = ++this.looks;
        break;
      case "bye":
        this.leave(tab);
        break;
      case "wait":
        this.waiting.push({ tab, id: message.id, sinceMs: this.nowMs() });
        break;
      case "unwait":
        this.waiting = this.waiting.filter((turn) => turn.tab !== tab || turn.id !== message.id);
        break;
      case "ping":
        tab.port.postMessage({ kind: "pong" });
        break;
    }
  }

  private subscribe(tab: Tab, message: ToWorker & { kind: "open" }): void {
    const key = message.isShareable ? keyOf(message) : null;
    let stream = [...this.streams].find((one) => key !== null && one.key === key);
    const turn = this.given.findIndex((one) => one.tab === tab);
    if (turn >= 0) this.given.splice(turn, 1);
    if (!stream) {
      const isLasting = message.isLasting && [...this.streams].filter((one) => one.isLasting).length < this.limit - 1;
      stream = new Carried(key, isLasting, message, this.open, this.nowMs, (ended) => this.streams.delete(ended));
      this.streams.add(stream);
    }
    tab.subscriptions.set(message.id, stream.add(tab, message.id));
    while (this.streams.size > this.limit && this.suspendOne(stream));
  }

  private unsubscribe(tab: Tab, id: number): void {
    tab.subscriptions.get(id)?.leave();
    tab.subscriptions.delete(id);
  }

  private leave(tab: Tab): void {
    for (const id of [...tab.subscriptions.keys()]) this.unsubscribe(tab, id);
    this.waiting = this.waiting.filter((turn) => turn.tab !== tab);
    this.tabs.delete(tab);
  }

  /** Returns the number of connections that are kept for tabs which were given a turn within the last second. */
  private reserved(nowMs: number): number {
    this.given = this.given.filter(({ atMs }) => nowMs - atMs < RESERVED_MS);
    return this.given.length;
  }

  /** Returns the stream whose turn has ended for the longest time; undefined if there is none. */
  private endedTurn(nowMs: number): Carried | undefined {
    const newest = Math.max(...[...this.streams].map((stream) => stream.seenAt));
    const ofLastTab = [...this.streams].filter((stream) => stream.seenAt === newest);
    const lasting = [...this.streams].filter((stream) => stream.isLasting).length;
    const kept = new Set(ofLastTab.filter((stream) => !stream.isLasting).slice(0, this.limit - 1 - lasting));
    const ended = [...this.streams].filter((stream) => {
      const isQuiet = stream.heardAtMs > 0 && nowMs - stream.heardAtMs >= QUIET_MS;
      return !kept.has(stream) && !stream.isLasting && (isQuiet || nowMs - stream.openedAtMs >= TURN_MS);
    });
    return ended.sort((a, b) => a.openedAtMs - b.openedAtMs)[0];
  }

  /** Suspends a stream, and returns whether there was one. */
  private suspendOne(kept: Carried): boolean {
    const others = [...this.streams].filter((stream) => stream !== kept && !stream.isLasting);
    others.sort((a, b) => a.seenAt - b.seenAt);
    others[0]?.suspend();
    return others.length > 0;
  }
}

function keyOf({ url, body }: { url: string; body: Uint8Array }): string {
  return `${url} ${body.join()}`;
}

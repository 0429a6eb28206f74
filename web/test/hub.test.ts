import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import { Hub } from "../src/rpc/shared/hub";
import { STAYING_MS, type FromWorker, type ToWorker } from "../src/rpc/shared/protocol";
import { Tunnel } from "../src/rpc/shared/tunnel";

/** A server whose answers the test writes. */
class Server {
  readonly calls: { url: string; aborted: boolean; push: (text: string) => void; end: () => void; cut: () => void; pulls: number }[] = [];

  readonly open = (url: string, init: RequestInit): Promise<Response> => {
    let body!: ReadableStreamDefaultController<Uint8Array>;
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => void (body = controller),
      pull: () => void (call.pulls += 1),
    });
    const call = {
      url,
      aborted: false,
      pulls: 0,
      push: (text: string) => body.enqueue(encodeEnvelope(0, new TextEncoder().encode(text))),
      end: () => body.close(),
      cut: () => body.error(new TypeError("cut")),
    };
    init.signal?.addEventListener("abort", () => {
      call.aborted = true;
      body.error(new DOMException("aborted", "AbortError"));
    });
    this.calls.push(call);
    return Promise.resolve(new Response(stream, { headers: { "content-type": "application/connect+proto" } }));
  };
}

/** A tab that notes what it gets. */
class Tab {
  readonly got: string[] = [];
  private readonly tell: (message: ToWorker) => void;

  constructor(hub: Hub, private readonly acks = true) {
    this.tell = hub.connect({ postMessage: (message) => this.take(message) });
    this.got.length = 0;
  }

  send(message: ToWorker): void {
    this.tell(message);
  }

  open(id: number, name: string, isShareable = true, isLasting = false): void {
    this.tell({ kind: "open", id, url: `/${name}`, headers: [], body: new Uint8Array([1]), isShareable, isLasting });
  }

  private take(message: FromWorker): void {
    if (message.kind === "data") {
      this.got.push(`${message.id}:${new TextDecoder().decode(message.bytes.subarray(5))}`);
      if (this.acks) queueMicrotask(() => this.tell({ kind: "ack", id: message.id, bytes: message.bytes.length }));
    } else if (message.kind !== "ready" && message.kind !== "pong") {
      this.got.push(`${message.id}:${message.kind}`);
    }
  }
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 5));

test("tabs with the same request share one stream, and a later tab begins with the whole state", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const [one, other] = [new Tab(hub), new Tab(hub)];
  one.open(1, "jobs");
  await settle();
  server.calls[0]?.push("all");
  await settle();
  server.calls[0]?.push("change");
  await settle();
  other.open(7, "jobs");
  await settle();
  assert.equal(server.calls.length, 2);
  server.calls[0]?.push("more");
  await settle();
  assert.deepEqual(other.got, [], "the later tab gets nothing before a whole state");
  server.calls[1]?.push("all again");
  await settle();
  server.calls[1]?.push("last");
  await settle();
  assert.ok(server.calls[0]?.aborted);
  assert.deepEqual(one.got, ["1:head", "1:all", "1:change", "1:more", "1:all again", "1:last"]);
  assert.deepEqual(other.got, ["7:head", "7:all again", "7:last"]);
  assert.equal(hub.size, 1);
});

test("stream of one tab is not shared", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const [one, other] = [new Tab(hub), new Tab(hub)];
  one.open(1, "logs", false);
  other.open(1, "logs", false);
  await settle();
  assert.deepEqual([server.calls.length, hub.size], [2, 2]);
});

test("stream ends for the server when its last tab leaves it", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const [one, other] = [new Tab(hub), new Tab(hub)];
  one.open(1, "jobs");
  await settle();
  server.calls[0]?.push("all");
  other.open(1, "jobs");
  await settle();
  server.calls[1]?.push("all");
  await settle();
  one.send({ kind: "close", id: 1 });
  await settle();
  assert.ok(!server.calls[1]?.aborted);
  other.send({ kind: "bye" });
  await settle();
  assert.ok(server.calls[1]?.aborted);
  assert.equal(hub.size, 0);
});

test("end and loss of a connection reach each tab", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const tab = new Tab(hub);
  for (const id of [1, 2]) {
    tab.open(id, `job ${id}`);
    await settle();
    server.calls[id - 1]?.push("all");
    await settle();
  }
  server.calls[0]?.end();
  server.calls[1]?.cut();
  await settle();
  assert.deepEqual(tab.got, ["1:head", "1:all", "2:head", "2:all", "1:end", "2:broken"]);
  assert.equal(hub.size, 0);
});

test("end before the first message reaches a tab with the head of the answer", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const tab = new Tab(hub);
  tab.open(1, "jobs");
  await settle();
  server.calls[0]?.end();
  await settle();
  assert.deepEqual(tab.got, ["1:head", "1:end"]);
  assert.equal(hub.size, 0);
});

test("stream that the page has closed before the worker has started is never opened", async () => {
  const sent: ToWorker[] = [];
  const tunnel = new Tunnel({ postMessage: (message: ToWorker) => sent.push(message) } as unknown as MessagePort, 1_000);
  const closed = tunnel.fetch("/jobs", { signal: AbortSignal.abort() }, new Uint8Array(), { isShareable: true, isLasting: false });
  await assert.rejects(closed, { name: "AbortError" });
  assert.deepEqual(sent, []);
});

test("stream of the tab that was not looked at for the longest time is suspended", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const tabs = Array.from({ length: 5 }, () => new Tab(hub));
  for (const [index, tab] of tabs.slice(0, 4).entries()) tab.open(1, `job ${index}`);
  tabs[0]?.send({ kind: "seen" });
  tabs[4]?.open(1, "job 4");
  await settle();
  assert.deepEqual(tabs.map((tab) => tab.got), [[], ["1:suspended"], [], [], []]);
  assert.equal(hub.size, 4);
  tabs[1]?.send({ kind: "seen" });
  tabs[1]?.open(2, "job 1");
  await settle();
  assert.deepEqual(tabs[2]?.got, ["1:suspended"]);
});

test("hub reads a stream of one tab no faster than the tab", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const tab = new Tab(hub, false);
  tab.open(1, "logs", false);
  await settle();
  for (let part = 0; part < 10; part++) server.calls[0]?.push("x".repeat(1 << 20));
  await settle();
  const before = tab.got.length;
  assert.ok(before < 8, `${before} messages of 1 MiB were sent to a tab that processes nothing`);
  tab.send({ kind: "ack", id: 1, bytes: 3 << 20 });
  await settle();
  assert.ok(tab.got.length > before);
});

test("slow tab loses a shared stream, and the other tab does not wait for it", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const [slow, quick] = [new Tab(hub, false), new Tab(hub)];
  slow.open(1, "jobs");
  quick.open(1, "jobs");
  await settle();
  for (let part = 0; part < 10; part++) server.calls.at(-1)?.push("x".repeat(1 << 20));
  await settle();
  assert.equal(slow.got.at(-1), "1:broken");
  assert.equal(quick.got.length, 11);
});

test("tab that has crashed loses its streams, and a tab that was only silent is told so", async () => {
  const server = new Server();
  let nowMs = 0;
  const hub = new Hub(server.open, () => nowMs);
  const [crashed, alive] = [new Tab(hub), new Tab(hub)];
  crashed.open(1, "one");
  alive.open(1, "other");
  nowMs = 170_000;
  alive.send({ kind: "ping" });
  nowMs = 200_000;
  hub.dropSilentTabs();
  await settle();
  assert.deepEqual(server.calls.map((call) => call.aborted), [true, false]);
  assert.deepEqual([crashed.got, alive.got], [["1:broken"], []]);
});

test("answer that is no stream reaches the tab as it is", async () => {
  const refused = () => Promise.resolve(new Response("no", { status: 502 }));
  const hub = new Hub(refused);
  const tab = new Tab(hub);
  tab.open(1, "jobs");
  await settle();
  assert.deepEqual([tab.got[0], tab.got.at(-1)], ["1:head", "1:end"]);
  assert.equal(hub.size, 0);
});

/** Lets tabs follow one stream each for a minute. The streams get a message each second. */
async function followInTurns(count: number) {
  const server = new Server();
  let nowMs = 0;
  const hub = new Hub(server.open, () => nowMs);
  const tabs = Array.from({ length: count }, () => new Tab(hub));
  tabs.forEach((tab, index) => tab.open(1, `job ${index}`));
  await settle();
  const suspended = tabs.flatMap((tab, index) => (tab.got.at(-1)?.endsWith("suspended") ? [index] : []));
  for (const index of suspended) tabs[index]?.send({ kind: "wait", id: 9 });
  const served = new Set<number>();
  let [longestBetweenTurnsMs, longestOpenMs] = [0, 0];
  const turnedAt = tabs.map(() => 0);
  for (; nowMs < 60_000; nowMs += 100) {
    for (const call of server.calls) if (!call.aborted && call.pulls && nowMs % 1_000 === 0) call.push("x");
    await new Promise((resolve) => setImmediate(resolve));
    hub.rotate();
    for (const [index, tab] of tabs.entries()) {
      if (tab.got.at(-1) === "9:turn") {
        longestBetweenTurnsMs = Math.max(longestBetweenTurnsMs, nowMs - turnedAt[index]!);
        turnedAt[index] = nowMs;
        served.add(index);
        tab.open(1, `job ${index}`);
        tab.got.push("open");
      } else if (tab.got.at(-1) === "1:suspended") {
        longestOpenMs = Math.max(longestOpenMs, nowMs - turnedAt[index]!);
        tab.got.push("waits");
        tab.send({ kind: "wait", id: 9 });
      }
    }
    assert.ok(hub.size <= 4, `${hub.size} streams are open`);
  }
  return { suspended, served: [...served].sort(), longestBetweenTurnsMs, longestOpenMs };
}

test("suspended streams take turns, and each turn ends when the stream is quiet", async () => {
  const { suspended, served, longestBetweenTurnsMs } = await followInTurns(7);
  assert.deepEqual(suspended, [0, 1, 2]);
  assert.deepEqual(served, [0, 1, 2, 3, 4, 5], "all take turns, except the tab that was opened last");
  assert.ok(longestBetweenTurnsMs <= 8_000, `a stream was suspended for ${longestBetweenTurnsMs} ms`);
});

test("stream that takes turns is suspended before it counts as staying open", async () => {
  for (const count of [5, 6, 8]) {
    const { longestOpenMs } = await followInTurns(count);
    assert.ok(longestOpenMs > 0);
    assert.ok(longestOpenMs < STAYING_MS, `with ${count} tabs, a stream was open for ${longestOpenMs} ms`);
  }
});

test("tab that needs all connections lends one of them to the other tabs", async () => {
  const server = new Server();
  let nowMs = 0;
  const hub = new Hub(server.open, () => nowMs);
  const [waiting, busy] = [new Tab(hub), new Tab(hub)];
  waiting.open(1, "list");
  for (let id = 1; id <= 4; id++) busy.open(id, `job ${id}`, false);
  await settle();
  assert.deepEqual(waiting.got, ["1:suspended"]);
  waiting.send({ kind: "wait", id: 2 });
  nowMs = 5_000;
  hub.rotate();
  assert.deepEqual([waiting.got.at(-1), busy.got], ["2:turn", ["4:suspended"]]);
  hub.rotate();
  waiting.open(3, "list");
  assert.equal(hub.size, 4);
});

test("tab that waits no more gets no turn", async () => {
  const server = new Server();
  let nowMs = 0;
  const hub = new Hub(server.open, () => nowMs);
  const tab = new Tab(hub);
  tab.send({ kind: "wait", id: 1 });
  tab.send({ kind: "wait", id: 2 });
  tab.send({ kind: "unwait", id: 1 });
  nowMs = 5_000;
  hub.rotate();
  assert.deepEqual(tab.got, ["2:turn"]);
});

test("lasting streams of tabs that nobody looks at are never suspended, and one connection is kept for others", async () => {
  const server = new Server();
  const hub = new Hub(server.open);
  const tab = new Tab(hub);
  for (let id = 1; id <= 4; id += 1) tab.open(id, `terminal${id}`, false, true);
  const other = new Tab(hub);
  other.send({ kind: "seen" });
  for (let id = 1; id <= 3; id += 1) other.open(id, `list${id}`);
  await settle();
  const open = server.calls.filter((call) => !call.aborted).map((call) => call.url);
  // Three terminals are lasting. The fourth one and the first two lists had to leave.
  assert.deepEqual(open, ["/terminal1", "/terminal2", "/terminal3", "/list3"]);
});

test("suspended streams take turns beside lasting streams", async () => {
  let nowMs = 0;
  const server = new Server();
  const hub = new Hub(server.open, () => nowMs);
  const tab = new Tab(hub);
  for (let id = 1; id <= 3; id += 1) tab.open(id, `terminal${id}`, false, true);
  tab.open(4, "list4");
  tab.open(5, "list5");
  assert.ok(tab.got.includes("4:suspended"));
  tab.send({ kind: "wait", id: 14 });
  nowMs += 3_000;
  hub.rotate();
  assert.ok(tab.got.includes("5:suspended"));
  assert.ok(tab.got.includes("14:turn"));
  assert.equal(server.calls.filter((call) => !call.aborted).length, 3);
});

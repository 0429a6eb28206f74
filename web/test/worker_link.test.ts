import assert from "node:assert/strict";
import { test } from "node:test";
import type { FromWorker, ToWorker } from "../src/rpc/shared/protocol";
import type { Tunnel } from "../src/rpc/shared/tunnel";
import { WorkerLink } from "../src/rpc/shared/worker_link";

/** A worker that answers only as far as the test lets it. */
class Worker {
  readonly got: ToWorker[] = [];
  isAlive = true;
  fail: () => void = () => undefined;
  readonly port = {
    onmessage: null as ((event: { data: FromWorker }) => void) | null,
    postMessage: (message: ToWorker) => {
      this.got.push(message);
      if (this.isAlive && message.kind === "ping") queueMicrotask(() => this.send({ kind: "pong" }));
    },
    close: () => undefined,
  };

  send(message: FromWorker): void {
    this.port.onmessage?.({ data: message });
  }
}

function linkTo(workers: Worker[], { startMs = 20, replyMs = 20 } = {}) {
  const ready: Tunnel[] = [];
  let started = 0;
  const link = new WorkerLink({
    start: () => {
      const worker = workers[started++];
      if (!worker) throw new Error("no workers here");
      return { port: worker.port as unknown as MessagePort, onFailure: (callback) => (worker.fail = callback) };
    },
    onReady: (tunnel) => ready.push(tunnel),
    startMs,
    replyMs,
  });
  return { link, ready, started: () => started };
}

test("stream waits for a worker that starts", async () => {
  const worker = new Worker();
  const { link } = linkTo([worker], { startMs: 60_000 });
  const reached = link.reach();
  worker.send({ kind: "ready" });
  assert.notEqual(await reached, null);
});

test("worker that never answers delays only the first streams, and is used once it answers", async () => {
  const worker = new Worker();
  const { link, started } = linkTo([worker]);
  assert.deepEqual(await Promise.all([link.reach(), link.reach()]), [null, null]);
  assert.equal(await Promise.race([link.reach(), Promise.resolve().then(() => Promise.resolve()).then(() => "delayed")]), null);
  worker.send({ kind: "ready" });
  assert.notEqual(await link.reach(), null);
  assert.equal(started(), 1);
});

test("worker whose program cannot be loaded is started again for the next stream", async () => {
  const [broken, good] = [new Worker(), new Worker()];
  const { link } = linkTo([broken, good], { startMs: 60_000 });
  const reached = link.reach();
  broken.fail();
  assert.equal(await reached, null);
  const again = link.reach();
  good.send({ kind: "ready" });
  assert.notEqual(await again, null);
});

test("browser without workers makes its requests itself", async () => {
  const { link } = linkTo([], { startMs: 60_000 });
  assert.equal(await link.reach(), null);
});

test("streams and turns of a worker that has crashed end, and the next stream starts a worker", async () => {
  const [crashed, next] = [new Worker(), new Worker()];
  const { link } = linkTo([crashed, next]);
  const reached = link.reach();
  crashed.send({ kind: "ready" });
  const tunnel = await reached;
  assert.ok(tunnel);
  crashed.isAlive = false;
  const turn = tunnel.turn(new AbortController().signal);
  const lost = tunnel.fetch("/jobs", {}, new Uint8Array(), { isShareable: true, isLasting: false });
  await assert.rejects(lost, /the shared worker does not answer/);
  await turn;
  const again = link.reach();
  next.send({ kind: "ready" });
  assert.notEqual(await again, tunnel);
});

test("worker that answers pings is alive, although its streams are silent", async () => {
  const worker = new Worker();
  const { link } = linkTo([worker], { replyMs: 5 });
  const reached = link.reach();
  worker.send({ kind: "ready" });
  const tunnel = (await reached)!;
  for (let probes = 0; probes < 3; probes++) {
    tunnel.probe();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.equal(tunnel.isDead, false);
});

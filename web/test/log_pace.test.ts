import assert from "node:assert/strict";
import { test } from "node:test";
import { LogDocument } from "../src/views/logs/engine/log_document";
import { countLines, isCalm, Pace } from "../src/views/logs/engine/pace";
import type { AttemptStatus, Part, PartRead } from "../src/views/logs/engine/server";
import { bytesOf, MemoryLogs, textOf, type Written } from "./log_records";

const numbered = (from: number, to: number): Written[] =>
  Array.from({ length: to - from }, (_, index) => ({ source: 0, timeMs: 1000 + from + index, text: `line ${from + index}` }));
const lines = (from: number, to: number) => numbered(from, to).map(({ text }) => text);
const status = (exitCode: number | null, attempt = 0): AttemptStatus => ({
  attempt, workerId: "w", startedMs: 1000, finishedMs: exitCode === null ? 0 : 9000,
  outcome: exitCode === null ? null : { state: 4, exitCode, signal: 0, error: "" },
});

function rows(document: LogDocument): string[] {
  return document.window.blocks.flatMap((block) =>
    block.rows.map(({ row }) => (row.kind === "line" ? textOf(row.data) : `${row.kind} ${row.attempt}`)),
  );
}

/** Returns a document that follows a log of 50 lines, and has received 20 more lines from a stream. */
async function following(server: MemoryLogs, tasks = [0]): Promise<LogDocument> {
  const document = new LogDocument(server, { tasks, attempt: null, isFiltered: false });
  for (const task of tasks) {
    server.write(task, 0, numbered(0, 50));
    document.applyStatus(task, [status(null)], false);
  }
  await document.openEnds();
  await document.toEnd();
  for (const task of tasks) {
    server.write(task, 0, numbered(50, 70));
    document.receive(server.chunk(task, 0, 50));
  }
  await document.extendDown();
  return document;
}

test("pace accepts a burst, refuses a lasting flood, and recovers with time", () => {
  const pace = new Pace(0);
  assert.equal(pace.accepts(1 << 20, 10_000, 0), true);
  assert.equal(pace.accepts(1 << 20, 10_000, 0), true);
  assert.equal(pace.accepts(100, 50, 10), false);
  assert.equal(pace.accepts(100, 50, 100), true);
  assert.equal(pace.accepts(5 << 20, 1, 60_000), false, "more bytes than any burst");
  let accepted = 0;
  for (let ms = 60_000; ms < 120_000; ms += 1) accepted += Number(pace.accepts(100_000, 100, ms));
  assert.ok(accepted * 100_000 < 70 << 20, "about 1 MiB per second");
});

test("log is calm again at half of the accepted rates", () => {
  assert.equal(isCalm({ bytes: 0, lines: 0, elapsedMs: 0 }), true);
  assert.equal(isCalm({ bytes: 200_000, lines: 400, elapsedMs: 500 }), true);
  assert.equal(isCalm({ bytes: 200_000, lines: 600, elapsedMs: 500 }), false);
  assert.equal(isCalm({ bytes: 300_000, lines: 400, elapsedMs: 500 }), false);
  assert.equal(countLines(bytesOf("a\n\nb\nc")), 3);
});

test("jump shows the end, and each skipped line is read once and in order", async () => {
  const server = new MemoryLogs();
  const document = await following(server);
  server.write(0, 0, numbered(70, 4000));
  document.fallBehind([0], 0);
  document.receive(server.chunk(0, 0, 70, 5)); // Was under way when the stream was closed.
  assert.deepEqual(document.streamPositions(), []);
  server.reads.length = 0;
  assert.equal(await document.jump(() => 500), false, "the log is still too fast");
  assert.equal(server.reads.length, 1, "nothing but the end is read");
  server.write(0, 0, numbered(4000, 9000));
  await document.jump(() => 1000);
  await document.toEnd();
  assert.equal(document.hasJumped, true);
  assert.deepEqual(rows(document), lines(8700, 9000));
  const skipped = document.skippedBytes();
  const perLine = 25 + "line 5000\n".length;
  assert.ok(Math.abs(skipped - (8700 - 70) * perLine) < 10 * perLine + 1000, `${skipped} bytes`);

  assert.equal(await document.jump(() => 1500), true, "nothing was written, so a stream delivers the log again");
  assert.equal(document.isBehind, false);
  assert.equal(document.streamPositions().length, 1);
  server.write(0, 0, numbered(9000, 9010));
  document.receive(server.chunk(0, 0, 8990)); // Ten records arrive twice.
  await document.extendDown();
  assert.deepEqual(rows(document), lines(8700, 9010));

  while (await document.extendUp()) assert.ok(document.skippedBytes() <= skipped);
  assert.deepEqual(rows(document), ["start 0", ...lines(0, 9010)]);
  assert.equal(document.skippedBytes(), 0);
  document.window.trimBottom(100);
  while (await document.extendDown()) document.window.trimTop(900);
  assert.deepEqual(rows(document), lines(9010 - document.window.rowCount, 9010));
});

test("user who reads on from the last line before a jump finds no hole", async () => {
  const server = new MemoryLogs();
  const document = await following(server);
  document.fallBehind([0], 0);
  for (let written = 70; written < 3000; written += 293) {
    server.write(0, 0, numbered(written, written + 293));
    assert.equal(await document.jump(() => written / 10), false);
  }
  assert.deepEqual(rows(document), ["start 0", ...lines(0, 70)], "the window has not moved");
  assert.equal(document.skippedBytes(), 0);
  while (await document.extendDown()) { /* to the end */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(0, 3000)]);
  server.write(0, 0, numbered(3000, 3020));
  await document.jump(() => 1e6);
  while (await document.extendDown()) { /* from a page that was the last one */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(0, 3020)]);
});

test("attempt that ends between two jumps shows its last line and its end, and the next attempt is streamed", async () => {
  const server = new MemoryLogs();
  const document = await following(server);
  document.fallBehind([0], 0);
  server.write(0, 0, numbered(70, 2000));
  await document.jump(() => 500);
  await document.toEnd();
  server.write(0, 0, numbered(2000, 5000), true);
  document.applyStatus(0, [status(3)], false);
  assert.equal(await document.jump(() => 1000), true);
  await document.toEnd();
  assert.deepEqual(rows(document), [...lines(4701, 5000), "end 0"]);
  assert.deepEqual(document.streamPositions(), [{ task: 0, attempt: 1, offsets: [0, 0, 0] }]);
  while (await document.extendUp()) { /* to the beginning */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(0, 5000), "end 0"]);
  await document.toBeginning();
  while (await document.extendDown()) { /* to the end */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(0, 5000), "end 0"]);
});

test("only the logs that are too fast leave the stream", async () => {
  const server = new MemoryLogs();
  const document = await following(server, [0, 1]);
  server.write(0, 0, numbered(70, 6000));
  document.fallBehind([0], 0);
  await document.jump(() => 500);
  assert.deepEqual(document.streamPositions().map(({ task }) => task), [1]);
  server.write(1, 0, numbered(70, 75));
  document.receive(server.chunk(1, 0, 70));
  await document.toEnd();
  assert.equal(rows(document).length, 300);
  while (await document.extendUp()) { /* to the beginning */ }
  const all = rows(document).filter((text) => text.startsWith("line"));
  assert.equal(all.length, 6075);
  assert.equal(new Set(all).size, 6000);
});

test("log that cannot be read is left to the stream, which says why", async () => {
  class Broken extends MemoryLogs {
    isBroken = false;
    override async fetchParts(reads: readonly PartRead[], find: string): Promise<readonly Part[]> {
      const parts = await super.fetchParts(reads, find);
      return this.isBroken ? parts.map((part) => ({ ...part, records: new Uint8Array(), error: "the disk is broken" })) : parts;
    }
  }
  const server = new Broken();
  const document = await following(server);
  document.fallBehind([0], 0);
  server.isBroken = true;
  assert.equal(await document.jump(() => 500), true);
  assert.deepEqual(document.errors().map(({ text }) => text), ["the disk is broken"]);
  assert.equal(document.streamPositions().length, 1);
});

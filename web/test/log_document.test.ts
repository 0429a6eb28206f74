import assert from "node:assert/strict";
import { test } from "node:test";
import { LogDocument } from "../src/views/logs/engine/log_document";
import type { Row } from "../src/views/logs/engine/lane";
import type { AttemptStatus, Part, PartRead } from "../src/views/logs/engine/server";
import { MemoryLogs, textOf, type Written } from "./log_records";

const numbered = (count: number, from = 0, startMs = 1000): Written[] =>
  Array.from({ length: count }, (_, index) => ({ source: (from + index) % 2, timeMs: startMs + from + index, text: `line ${from + index}` }));
const running = (attempt: number, startedMs = 1000): AttemptStatus => ({ attempt, workerId: "w", startedMs, finishedMs: 0, outcome: null });
const ended = (attempt: number, state: number, exitCode: number, startedMs = 1000, finishedMs = 9000): AttemptStatus => ({
  attempt, workerId: "w", startedMs, finishedMs, outcome: { state, exitCode, signal: 0, error: "" },
});

function shown(row: Row): string {
  if (row.kind === "line") return textOf(row.data);
  if (row.kind === "gap") return `gap ${row.end - row.start}`;
  return row.kind === "start" ? `start ${row.attempt}` : `end ${row.attempt}: ${row.log.outcome?.exitCode}`;
}

const rows = (document: LogDocument) => document.window.blocks.flatMap((block) => block.rows.map(({ row }) => shown(row)));
const lines = (count: number, from = 0) => Array.from({ length: count }, (_, index) => `line ${from + index}`);

function open(server: MemoryLogs, tasks: number[], attempt: number | null = null, isFiltered = false): LogDocument {
  return new LogDocument(server, { tasks, attempt, isFiltered });
}

test("ended log is read from its end to its beginning, and back", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(1000), true);
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 5, 3)], true);
  await document.openEnds();
  assert.deepEqual(document.streamPositions(), []);
  await document.toEnd();
  assert.deepEqual(rows(document), [...lines(299, 701), "end 0: 3"]);
  while (await document.extendUp()) document.window.trimBottom(400);
  assert.equal(rows(document)[0], "start 0");
  assert.ok(document.window.rowCount < 700);
  assert.deepEqual(rows(document).slice(1), lines(document.window.rowCount - 1));
  while (await document.extendDown()) document.window.trimTop(400);
  const last = rows(document);
  assert.deepEqual(last, [...lines(last.length - 1, 1001 - last.length), "end 0: 3"]);
});

test("middle of a log is reached without reading the rest", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(20_000), true);
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  server.reads.length = 0;
  await document.toFraction(0.5);
  assert.ok(server.reads.length < 200, `${server.reads.length} reads`);
  const all = rows(document);
  assert.deepEqual(all, lines(all.length, Number(all[0]!.slice(5))));
  const middle = document.window.blocks[Math.floor(document.window.blocks.length / 2)]!.rows[0]!;
  assert.ok(Math.abs(document.fractionOf(middle) - 0.5) < 0.02);
  await document.toBeginning();
  assert.deepEqual(rows(document).slice(0, 3), ["start 0", "line 0", "line 1"]);
});

test("stream continues where the end was read, and its rows follow", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(50));
  const document = open(server, [0]);
  document.applyStatus(0, [running(0)], false);
  await document.openEnds();
  await document.toEnd();
  assert.deepEqual(document.streamPositions().map(({ attempt, offsets }) => [attempt, offsets[0] > 0]), [[0, true]]);
  server.write(0, 0, numbered(5000, 50));
  for (let from = 45; from < 5050; from += 700) {
    document.receive(server.chunk(0, 0, from, 705)); // Five records arrive twice.
    await document.extendDown(1000);
  }
  assert.equal(document.addedLines, 5000);
  assert.deepEqual(rows(document), ["start 0", ...lines(5050)]);
  document.window.trimTop(300);
  while (await document.extendUp()) { /* reads closed pages again */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(5050)]);
});

test("place in the stored part leads over to the streamed part without a repeated line", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(100));
  const document = open(server, [0]);
  document.applyStatus(0, [running(0)], false);
  await document.openEnds();
  server.write(0, 0, numbered(60, 100));
  document.receive(server.chunk(0, 0, 100));
  await document.toFraction(0.4);
  while (await document.extendDown()) { /* to the end */ }
  while (await document.extendUp()) { /* to the beginning */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(160)]);
  server.write(0, 0, numbered(10, 160));
  document.receive(server.chunk(0, 0, 160));
  await document.extendDown();
  assert.deepEqual(rows(document).slice(-11), lines(11, 159));
});

test("rows that are dropped at the top are not missing when the next movement adds rows there", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(1000));
  const document = open(server, [0]);
  document.applyStatus(0, [running(0)], false);
  await document.openEnds();
  await document.toEnd(300);
  server.write(0, 0, numbered(600, 1000));
  document.receive(server.chunk(0, 0, 1000));
  await Promise.all([document.extendDown(600, () => 600), document.extendUp(400)]);
  const all = rows(document);
  assert.ok(all.length >= 1000 && all.length < 1200, `${all.length} rows`);
  assert.deepEqual(all, lines(all.length, 1600 - all.length));
});

test("retry begins after the end of the attempt before", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(3));
  const document = open(server, [0]);
  document.applyStatus(0, [running(0)], false);
  await document.openEnds();
  await document.toEnd();
  const end = { complete: true, missingReason: "", state: 5, exitCode: 7, signal: 0, error: "" };
  document.receive({ ...server.chunk(0, 0, 3), end });
  assert.deepEqual(document.streamPositions().map(({ attempt }) => attempt), [1]);
  document.applyStatus(0, [ended(0, 5, 7), running(1)], false);
  server.write(0, 1, numbered(2, 3));
  document.receive(server.chunk(0, 1, 0));
  await document.extendDown();
  assert.deepEqual(rows(document), ["start 0", ...lines(3), "end 0: 7", "start 1", ...lines(2, 3)]);
  document.receive({ ...server.chunk(0, 1, 2), end: { ...end, state: 4, exitCode: 0 } });
  document.applyStatus(0, [ended(0, 5, 7), ended(1, 4, 0)], true);
  await document.extendDown();
  assert.equal(rows(document).at(-1), "end 1: 0");
  assert.deepEqual(document.streamPositions(), []);
  assert.equal(document.isAtEnd, true);
});

test("lanes are merged by time in both directions", async () => {
  const server = new MemoryLogs();
  const times = Array.from({ length: 600 }, (_, index) => index);
  for (const task of [0, 1, 2]) {
    const own = times.filter((time) => time % 3 === task).map((time) => ({ source: 0, timeMs: 2000 + time, text: `line ${time}` }));
    server.write(task, 0, own, true);
  }
  const document = open(server, [0, 1, 2]);
  for (const task of [0, 1, 2]) document.applyStatus(task, [ended(0, 4, task, 1000 + task, 9000 + task)], true);
  await document.openEnds();
  await document.toEnd();
  while (await document.extendUp()) { /* to the beginning */ }
  const starts = ["start 0", "start 0", "start 0"];
  assert.deepEqual(rows(document), [...starts, ...lines(600), "end 0: 0", "end 0: 1", "end 0: 2"]);
  await document.toBeginning();
  while (await document.extendDown()) { /* to the end */ }
  assert.deepEqual(rows(document), [...starts, ...lines(600), "end 0: 0", "end 0: 1", "end 0: 2"]);
  await document.toTime(2300);
  assert.ok(rows(document).includes("line 300"));
});

test("filtered tasks without a line show only failures and lost ends, and their other rows do not count", async () => {
  const server = new MemoryLogs();
  const tasks = Array.from({ length: 400 }, (_, index) => index);
  for (const task of tasks) server.write(task, 0, task === 7 ? numbered(2, 0, 2000) : [], true);
  server.write(9, 0, []);
  const document = open(server, tasks, null, true);
  for (const task of tasks) document.applyStatus(task, task === 9 ? [running(0)] : [ended(0, task === 8 ? 5 : 4, task)], task !== 9);
  await document.openEnds();
  await document.toEnd();
  while (document.window.hasMoreAbove) await document.extendUp();
  const visible = () => document.window.blocks.flatMap((block) => block.rows.filter((row) => document.window.isShown(row)).map(({ row }) => shown(row)));
  assert.deepEqual(visible(), ["start 0", "line 0", "line 1", "end 0: 7", "end 0: 8"]);
  assert.equal(document.window.rowCount, 5);
  const { shownVersion } = document.window;
  server.write(9, 0, numbered(1, 0, 9500));
  document.receive(server.chunk(9, 0, 0));
  await document.extendDown();
  assert.deepEqual(visible(), ["start 0", "start 0", "line 0", "line 1", "end 0: 7", "end 0: 8", "line 0"]);
  assert.notEqual(document.window.shownVersion, shownVersion);
});

test("permalink leads to its line, in the stored and in the streamed part", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(2000));
  const document = open(server, [0]);
  document.applyStatus(0, [running(0)], false);
  await document.openEnds();
  await document.toFraction(0.3);
  const wanted = document.window.blocks[1]!.rows[5]!;
  await document.toEnd();
  assert.equal(await document.toRow(wanted.key), wanted.key);
  assert.ok(rows(document).includes(shown(wanted.row)));
  server.write(0, 0, numbered(10, 2000));
  document.receive(server.chunk(0, 0, 2000));
  await document.extendDown();
  const streamed = document.window.last!;
  await document.toBeginning();
  assert.equal(await document.toRow(streamed.key), streamed.key);
  assert.equal(await document.toRow("0.0.start"), "0.0.start");
  assert.equal(await document.toRow("7.0.stdout.5"), null);
  assert.equal(await document.toRow("nonsense"), null);
});

test("search finds the next and the previous match over attempts and lanes", async () => {
  const server = new MemoryLogs(20);
  server.write(0, 0, numbered(300), true);
  server.write(0, 1, numbered(300, 300, 5000), true);
  server.write(1, 0, [{ source: 0, timeMs: 5400, text: "a line 7 of task 1" }], true);
  const document = open(server, [0, 1]);
  document.applyStatus(0, [ended(0, 5, 1), ended(1, 4, 0, 5001)], true);
  document.applyStatus(1, [ended(0, 4, 0)], true);
  await document.openEnds();
  await document.toBeginning();
  const found: string[] = [];
  let from = document.window.first;
  const signal = new AbortController().signal;
  for (;;) {
    const match = await document.find("[25]77$|of task", "next", from, signal, () => {});
    if (!match) break;
    found.push(textOf((match.entry as { data: Uint8Array }).data));
    assert.equal(await document.toRow(match.key), match.key);
    from = document.window.blocks.flatMap((block) => block.rows).find((row) => row.key === match.key);
  }
  assert.deepEqual(found, ["line 277", "a line 7 of task 1", "line 577"]);
  const back = await document.find("277$", "previous", from, signal, () => {});
  assert.equal(textOf((back!.entry as { data: Uint8Array }).data), "line 277");
});

test("failed read loses no row, and the next movement tries again", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(100), true);
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  const fresh = open(server, [0]);
  fresh.applyStatus(0, [ended(0, 4, 0)], true);
  await fresh.openEnds();
  server.failures = 2;
  await assert.rejects(fresh.toBeginning().then(() => fresh.extendDown(50)));
  while (await fresh.extendDown(13)) { /* to the end */ }
  assert.deepEqual(rows(fresh), ["start 0", ...lines(100), "end 0: 0"]);
});

/** Logs that were removed, or that cannot be read, from some moment on. */
class LostLogs extends MemoryLogs {
  answer: "logs" | "error" | "removed" = "logs";

  override async fetchParts(reads: readonly PartRead[], find: string): Promise<readonly Part[]> {
    assert.ok(this.reads.length < 1_000, "a part is read again and again");
    const parts = await super.fetchParts(reads, find);
    if (this.answer === "logs") return parts;
    const isRemoved = this.answer === "removed";
    return parts.map(({ task, attempt }): Part => ({
      task, attempt, records: new Uint8Array(), begin: 0, end: 0, size: 0, offsets: [0, 0, 0], atEnd: isRemoved,
      complete: isRemoved, missingReason: isRemoved ? "it was removed" : "", error: isRemoved ? "" : "the worker does not answer",
    }));
  }
}

test("movements end in a log that cannot be read, and read the log when it can be read again", async () => {
  const server = new LostLogs();
  server.write(0, 0, numbered(100), true);
  server.answer = "error";
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  await document.toEnd();
  await document.toBeginning();
  await document.toFraction(0.5);
  assert.equal(await document.toRow("0.0.stdout.50"), "0.0.start");
  assert.deepEqual(document.errors().map(({ text }) => text), ["the worker does not answer"]);
  server.answer = "logs";
  document.forgetErrors();
  await document.toBeginning();
  assert.deepEqual(rows(document), ["start 0", ...lines(100), "end 0: 0"]);
});

test("log whose stream has failed is unread until the stream delivers it again", async () => {
  const server = new MemoryLogs();
  const document = open(server, [0, 1]);
  for (const task of [0, 1]) {
    server.write(task, 0, numbered(5));
    document.applyStatus(task, [running(0)], false);
  }
  await document.openEnds();
  assert.equal(document.hasUnreadEnds, false);
  document.receive({ ...server.chunk(1, 0, 5), error: "the worker does not answer" });
  assert.equal(document.hasUnreadEnds, true);
  document.receive(server.chunk(1, 0, 0));
  assert.equal(document.hasUnreadEnds, false);
});

test("error in the middle of a log skips no line, and the lines are read when the error is over", async () => {
  const server = new LostLogs();
  server.write(0, 0, numbered(1000), true);
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  await document.toEnd(20);
  server.answer = "error";
  while (await document.extendUp()) { /* to the error */ }
  const before = rows(document);
  assert.deepEqual(before.slice(0, -1), lines(before.length - 1, 1001 - before.length), "no row stands for the unread lines");
  assert.equal(document.errors().length, 1);
  assert.equal(document.window.hasMoreAbove, false, "nothing is read again at once");
  document.forgetErrors();
  assert.equal(document.window.hasMoreAbove, true);
  assert.equal(document.errors().length, 1, "the error is shown until the log was read");
  server.answer = "logs";
  while (await document.extendUp()) { /* to the beginning */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(1000), "end 0: 0"]);
  assert.equal(document.errors().length, 0);
});

test("rows before a movement are drawn until the movement has read its rows", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(1000), true);
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  await document.toEnd();
  const drawn = () => document.blocks.flatMap((block) => block.rows.map(({ row }) => shown(row)));
  const before = drawn();
  let isDone = false;
  const moving = document.toBeginning().then(() => (isDone = true));
  while (!isDone) {
    if (document.window.first?.row.kind !== "start") assert.deepEqual(drawn(), before);
    await Promise.resolve();
  }
  await moving;
  assert.deepEqual(drawn().slice(0, 3), ["start 0", "line 0", "line 1"]);
});

test("movement that is not wanted any more leaves the window as it is", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(1000), true);
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  await document.toBeginning();
  const before = rows(document);
  await document.toEnd(20, () => false);
  assert.deepEqual(rows(document), before);
});

test("server that answers without progress is not asked without end", async () => {
  class Stuck extends MemoryLogs {
    override async fetchParts(reads: readonly PartRead[], find: string): Promise<readonly Part[]> {
      const parts = await super.fetchParts(reads, find);
      assert.ok(this.reads.length < 100, "a part is read again and again");
      return parts.map((part) => ({ ...part, records: new Uint8Array(), begin: part.end, complete: false, atEnd: true }));
    }
  }
  const server = new Stuck();
  server.write(0, 0, numbered(100));
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  await document.toEnd();
  await document.extendUp();
  await document.toFraction(0.5);
  await document.extendUp();
  await document.extendDown();
  await document.toRow("0.0.stdout.50");
});

test("search says which log could not be searched", async () => {
  class PartlyLost extends MemoryLogs {
    lost: readonly number[] = [1];
    override async fetchParts(reads: readonly PartRead[], find: string): Promise<readonly Part[]> {
      const parts = await super.fetchParts(reads, find);
      return parts.map((part) => (find && this.lost.includes(part.task) ? { ...part, records: new Uint8Array(), error: "it is away" } : part));
    }
  }
  const server = new PartlyLost();
  const document = open(server, [0, 1]);
  for (const task of [0, 1]) {
    server.write(task, 0, numbered(30), true);
    document.applyStatus(task, [ended(0, 4, 0)], true);
  }
  await document.openEnds();
  const find = (pattern: string) => document.find(pattern, "next", undefined, new AbortController().signal, () => {});
  const match = await find("line 7");
  assert.equal(match?.key.slice(0, 2), "0.");
  assert.match(match?.unsearched ?? "", /The log of task 1 could not be searched: it is away/);
  await assert.rejects(find("nowhere"), /The log of task 1 could not be searched: it is away/);
  server.lost = [];
  assert.equal(await find("nowhere"), null);
});

test("chunk of a log whose end was read already adds nothing", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(10));
  const document = open(server, [0]);
  document.applyStatus(0, [running(0)], false);
  await document.openEnds();
  document.fallBehind([0], 0);
  server.write(0, 0, numbered(10, 10), true);
  assert.equal(await document.jump(() => 1e6), true);
  document.receive(server.chunk(0, 0, 15)); // It was under way when the end was read.
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.toBeginning();
  while (await document.extendDown()) { /* to the end */ }
  assert.deepEqual(rows(document), ["start 0", ...lines(20), "end 0: 0"]);
});

test("movements end in a log that is removed while it is shown", async () => {
  for (const move of ["up", "down"] as const) {
    const server = new LostLogs();
    server.write(0, 0, numbered(1000), true);
    const document = open(server, [0]);
    document.applyStatus(0, [ended(0, 4, 0)], true);
    await document.openEnds();
    await document.toFraction(0.5);
    server.answer = "removed";
    server.reads.length = 0;
    if (move === "up") while (await document.extendUp()) { /* to the beginning */ }
    else while (await document.extendDown()) { /* to the end */ }
    assert.equal(move === "up" ? rows(document)[0] : rows(document).at(-1), move === "up" ? "start 0" : "end 0: 0");
    await document.toEnd();
    await document.toBeginning();
    await document.toFraction(0.3);
  }
});

test("attempt that has written nothing has a beginning and an end", async () => {
  const server = new LostLogs();
  server.write(0, 0, [], true);
  const document = open(server, [0]);
  document.applyStatus(0, [ended(0, 4, 0)], true);
  await document.openEnds();
  await document.toEnd();
  assert.deepEqual(rows(document), ["start 0", "end 0: 0"]);
});

test("task without an attempt is followed from its first attempt", async () => {
  const server = new MemoryLogs();
  const document = open(server, [0]);
  document.applyStatus(0, [], false);
  await document.openEnds();
  await document.toEnd();
  assert.deepEqual(rows(document), []);
  assert.deepEqual(document.streamPositions(), [{ task: 0, attempt: 0, offsets: [0, 0, 0] }]);
  document.applyStatus(0, [running(0)], false);
  server.write(0, 0, numbered(4));
  document.receive(server.chunk(0, 0, 0));
  await document.extendDown();
  assert.deepEqual(rows(document), ["start 0", ...lines(4)]);
});

test("only one attempt is shown if the address names it", async () => {
  const server = new MemoryLogs();
  server.write(0, 0, numbered(5), true);
  server.write(0, 1, numbered(5, 5), true);
  const document = open(server, [0], 1);
  document.applyStatus(0, [ended(0, 5, 1), ended(1, 4, 0)], true);
  await document.openEnds();
  await document.toEnd();
  assert.deepEqual(rows(document), ["start 1", ...lines(5, 5), "end 1: 0"]);
});

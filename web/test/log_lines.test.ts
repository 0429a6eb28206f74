import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "../src/views/logs/engine/crc32";
import { keyOf, LineAssembler, MAX_LINE_BYTES, type Entry } from "../src/views/logs/engine/lines";
import { DamagedRecordsError, decodeRecords } from "../src/views/logs/engine/records";
import { bytesOf, concat, gapRecord, record, textOf } from "./log_records";

const texts = (entries: readonly Entry[]) => entries.map((entry) => (entry.kind === "line" ? textOf(entry.data) : `gap ${entry.end - entry.start}: ${entry.reason}`));
const assembler = (isPacked = false) => new LineAssembler(0, 0, [0, 0, 0], isPacked);

test("checksum is the CRC-32 of zlib", () => {
  assert.equal(crc32(bytesOf("123456789")), 0xcbf43926);
  assert.equal(crc32(bytesOf("56789"), crc32(bytesOf("1234"))), 0xcbf43926);
  assert.equal(crc32(new Uint8Array()), 0);
});

test("records with a wrong checksum or a wrong length are refused", () => {
  const good = record(0, 1000, 0, "hello\n");
  assert.equal([...decodeRecords(good)].length, 1);
  for (let at = 0; at < good.length; at += 1) {
    const bad = good.slice();
    bad[at] = bad[at]! ^ 1;
    assert.throws(() => [...decodeRecords(bad)], DamagedRecordsError, `byte ${at}`);
  }
  assert.throws(() => [...decodeRecords(good.subarray(0, 20))], DamagedRecordsError);
  assert.throws(() => [...decodeRecords(good.subarray(0, 28))], DamagedRecordsError);
});

test("line is assembled from records that are cut anywhere, for each source", () => {
  const lines = assembler();
  const found = [
    ...lines.read(concat(record(0, 1, 0, "one\ntw"), record(1, 2, 0, "err"))),
    ...lines.read(record(0, 3, 6, "o\n\nfour")),
    ...lines.read(record(1, 4, 3, "or\n")),
  ];
  assert.deepEqual(texts(found), ["one", "two", "", "error"]);
  assert.deepEqual(found.map((entry) => [entry.source, entry.timeMs, entry.start, entry.end]), [[0, 1, 0, 4], [0, 3, 4, 8], [0, 3, 8, 9], [1, 4, 0, 6]]);
  assert.deepEqual(texts(lines.unfinished()), ["four"]);
  assert.deepEqual(lines.offsets, [13, 6, 0]);
  assert.equal(keyOf(found[1]!), "0.0.stdout.7");
});

test("records that arrive again after a lost connection add nothing", () => {
  const text = "alpha\nbeta\ngamma\n";
  for (let cut = 0; cut <= text.length; cut += 1) {
    const lines = assembler();
    const found = [...lines.read(record(0, 1, 0, text.slice(0, cut))), ...lines.read(record(0, 1, 0, text)), ...lines.read(record(0, 1, 3, text.slice(3)))];
    assert.deepEqual(texts(found), ["alpha", "beta", "gamma"], `cut at ${cut}`);
  }
});

test("damaged records add nothing, so that the same records are read whole afterwards", () => {
  const lines = assembler();
  const bytes = concat(record(0, 1, 0, "one\n"), record(0, 2, 4, "two\n"));
  const damaged = bytes.slice();
  damaged[damaged.length - 1]! ^= 1;
  assert.throws(() => lines.read(damaged), DamagedRecordsError);
  assert.deepEqual(lines.offsets, [0, 0, 0]);
  assert.deepEqual(texts(lines.read(bytes)), ["one", "two"]);
});

test("gap stands between the lines with its size and its cause", () => {
  const lines = assembler();
  const found = lines.read(concat(record(0, 1, 0, "one\nhal"), gapRecord(0, 2, 7, 100, "the disk was full"), record(0, 3, 107, "f\n")));
  assert.deepEqual(texts(found), ["one", "hal", "gap 100: the disk was full", "f"]);
  assert.equal(found[1]!.kind === "line" && (found[1] as { partial: boolean }).partial, true);
});

test("jump of the offset is a gap in a whole log, and left-out bytes in a filtered log", () => {
  const bytes = concat(record(0, 1, 0, "one\n"), record(0, 2, 50, "two\n"));
  assert.deepEqual(texts(assembler().read(bytes)), ["one", "gap 46: it was not sent", "two"]);
  assert.deepEqual(texts(assembler(true).read(bytes)), ["one", "two"]);
});

test("long line keeps its beginning and counts the rest", () => {
  const lines = assembler();
  const size = 1 << 20;
  let offset = 0;
  for (let count = 0; count < 10; count += 1, offset += size) assert.deepEqual(lines.read(record(0, 1, offset, "x".repeat(size))), []);
  const [line] = lines.read(record(0, 2, offset, "\nnext\n")) as [Entry, Entry];
  assert.equal(line.kind, "line");
  if (line.kind !== "line") return;
  assert.equal(line.data.length, MAX_LINE_BYTES);
  assert.equal(line.skipped, 10 * size - MAX_LINE_BYTES);
  assert.equal(line.end, 10 * size + 1);
});

test("long line whose middle the server has left out counts the left-out bytes", () => {
  const lines = assembler(true);
  const [line] = lines.read(concat(record(0, 1, 0, "x".repeat(100)), record(0, 1, 5_000, "\n"))) as [Entry];
  assert.equal(line.kind === "line" && line.skipped, 4_900);
});

test("long progress bar keeps its last state", () => {
  const lines = assembler();
  for (let percent = 0, offset = 0; percent < 1000; percent += 1) {
    const state = `\r${percent} ${"#".repeat(80)}`;
    lines.read(record(1, percent, offset, state));
    offset += state.length;
  }
  assert.match(texts(lines.unfinished())[0]!, /\r999 #+$/);
  assert.ok(lines.unfinished()[0]!.data.length <= MAX_LINE_BYTES);
});

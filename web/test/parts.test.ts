import assert from "node:assert/strict";
import { test } from "node:test";
import { bytesText } from "../src/parts/numbers";
import { stateNumber, styleOf } from "../src/parts/states";
import { durationText, secondsText } from "../src/parts/time_text";
import { Backoff } from "../src/rpc/backoff";

test("duration has its two largest units", () => {
  const cases: [number, string][] = [
    [-5, "0ms"], [850, "850ms"], [4_260, "4.2s"], [9_999, "9.9s"], [59_999, "59s"], [185_000, "3m 05s"],
    [7_800_000, "2h 10m"], [442_800_000, "5d 3h"],
  ];
  for (const [ms, text] of cases) assert.equal(durationText(ms), text);
  assert.equal(secondsText(850), "0s");
});

test("size has a unit of 1,024", () => {
  assert.deepEqual([0, 1023, 1024, 1536 * 2 ** 20, 2 ** 60].map(bytesText), ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "1024 PiB"]);
});

test("state of a newer controller is unknown", () => {
  assert.equal(styleOf(7).css, "worker-failed");
  assert.equal(styleOf(99).label, "unknown");
  assert.equal(styleOf(-1).label, "unknown");
  assert.equal(stateNumber("failed"), 5);
  assert.equal(stateNumber("nothing"), 0);
});

test("pauses double up to 15 s, and begin again after a success", () => {
  const backoff = new Backoff(() => 1);
  const pauses = Array.from({ length: 8 }, () => backoff.next());
  assert.deepEqual(pauses, [300, 600, 1200, 2400, 4800, 9600, 15000, 15000]);
  backoff.reset();
  assert.equal(backoff.next(), 300);
});

test("pauses begin again only after a stream that has worked for five seconds since its first message", () => {
  let nowMs = 0;
  const backoff = new Backoff(() => 1, () => nowMs);
  const pauseAfter = (...messagesMs: readonly number[]) => {
    for (const ms of messagesMs) {
      nowMs += ms;
      backoff.answered();
    }
    nowMs += 1_000;
    return backoff.next();
  };
  assert.deepEqual([pauseAfter(0), pauseAfter(0, 1_000), pauseAfter(60_000)], [300, 600, 1200]);
  assert.deepEqual([pauseAfter(0, 2_000, 2_000), pauseAfter(0), pauseAfter()], [300, 600, 1200]);
});

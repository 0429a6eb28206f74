import assert from "node:assert/strict";
import { test } from "node:test";
import { changeStyle, PLAIN, renderLine, visibleText } from "../src/views/logs/engine/ansi";
import { markerOf, markMatches } from "../src/views/logs/engine/highlight";
import { parseTime } from "../src/views/logs/engine/time_text";
import { bytesOf } from "./log_records";

const shown = (text: string | Uint8Array) => renderLine(bytesOf(text)).map((span) => span.text).join("");

test("colours of the palette, of 256 colours and of true colour are understood", () => {
  const colour = (parameters: string) => changeStyle(PLAIN, parameters).foreground;
  assert.deepEqual(["31", "97", "38;5;9", "38;5;196", "38;5;244", "38;2;1;2;255", "38:2::1:2:255", "38:5:208", "38;5;999"].map(colour), [1, 15, 9, "#ff0000", "#808080", "#0102ff", "#0102ff", "#ff8700", null]);
  assert.deepEqual(changeStyle(PLAIN, "1;4;7;3;9;2;42"), { foreground: null, background: 2, bold: true, underline: true, inverse: true, italic: true, strike: true, dim: true });
  assert.deepEqual(changeStyle(changeStyle(PLAIN, "1;31;44"), ""), PLAIN);
  assert.equal(changeStyle(changeStyle(PLAIN, "1;31"), "22").foreground, 1);
  assert.deepEqual(renderLine(bytesOf("a \x1b[1;31mred\x1b[0m b")).map(({ text, style }) => [text, style.foreground, style.bold]), [["a ", null, false], ["red", 1, true], [" b", null, false]]);
});

test("other escape sequences are removed, and a broken one is visible", () => {
  assert.equal(shown("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\x1b(B\x1b[2J\x1b[?25l\x1b7\x1b=b"), "alinkb");
  assert.equal(shown("\x1b]0;never ends"), "\\x1b]0;never ends");
  assert.equal(shown("end\x1b"), "end\\x1b");
});

test("carriage returns redraw the line in place", () => {
  assert.equal(shown("10%\r20%\r100%"), "100%");
  assert.equal(shown("long text\rab"), "abng text");
  assert.equal(shown("long text\r\x1b[Kab"), "ab");
  assert.equal(shown("abc\b\bX"), "aXc");
  assert.equal(shown("windows\r"), "windows");
  assert.equal(shown("50%\r"), "50%");
  assert.equal(shown("a\x1b[5Gb\x1b[2Dc"), "a  cb");
  assert.ok(shown("\x1b[999999999Cx").length < 100_000);
});

test("characters that hide or reorder text are visible escapes", () => {
  assert.equal(shown("a\0b"), "a\\0b");
  assert.equal(shown("user\u202etxt.exe"), "user\\u202etxt.exe");
  assert.equal(shown("\u2066x\u2069\u200f\u2028\ufeff\x07\x9b"), "\\u2066x\\u2069\\u200f\\u2028\\ufeff\\x07\\x9b");
  assert.equal(shown("tab\tstays, größe 世界 🚀"), "tab\tstays, größe 世界 🚀");
  assert.equal(visibleText("job\u202e"), "job\\u202e");
  assert.ok(renderLine(bytesOf("a\0")).some((span) => span.isEscape));
});

test("broken UTF-8 becomes replacement characters, and markup stays text", () => {
  assert.equal(shown(new Uint8Array([0x61, 0xff, 0xc3, 0x62])), "a\ufffd\ufffdb");
  assert.equal(shown("<script>alert(1)</script>&amp;"), "<script>alert(1)</script>&amp;");
});

test("matches are marked across styles", () => {
  const spans = renderLine(bytesOf("an \x1b[31merr\x1b[0mor, another Error"));
  const marked = markMatches(spans, markerOf("(?i)error"));
  assert.deepEqual(marked.filter((span) => span.isMarked).map((span) => span.text), ["err", "or", "Error"]);
  assert.equal(marked.map((span) => span.text).join(""), "an error, another Error");
});

test("pattern that could take the browser long is not marked", () => {
  for (const pattern of ["(a+)+$", "(a|a)*b", "a*a*b", ".*.*x", "", "\\pN+\\C", "x{1,9}{2,3}", "a?".repeat(30) + "a".repeat(30), "(a|aa)".repeat(20) + "$"]) assert.equal(markerOf(pattern), null, pattern);
  for (const pattern of ["error", "^step \\d+", "[*+]", "a\\+b", "loss=[0-9.]+", "(?i)warn", "error|warn|fail|fatal|panic|oom|abort|killed|timeout", "https?://(a|b)", "(?:no|not) found"]) assert.notEqual(markerOf(pattern), null, pattern);
});

test("times are spans, clock times, moments and seconds", () => {
  const now = Date.parse("2026-11-30T12:00:00");
  assert.equal(parseTime("10m", now), now - 600_000);
  assert.equal(parseTime("90", now), now - 90_000);
  assert.equal(parseTime("2h30m", now), now - 9_000_000);
  assert.equal(parseTime("@1732445000", now), 1_732_445_000_000);
  assert.equal(parseTime("2026-11-30T10:00:00Z", now), Date.parse("2026-11-30T10:00:00Z"));
  assert.equal(parseTime("2026-11-30 10:00", now), Date.parse("2026-11-30T10:00:00"));
  assert.equal(parseTime("09:30", now), Date.parse("2026-11-30T09:30:00"));
  for (const wrong of ["", "soon", "25:00", "20261130", "2026-13-01", "10 m"]) assert.equal(parseTime(wrong, now), null, wrong);
});

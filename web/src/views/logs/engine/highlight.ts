// Marks the matches of a pattern in the pieces of a line. The server decides with RE2 which lines match. The browser's
// regular expressions only mark the matches, and only patterns that cannot take long are marked.

import type { Span } from "./ansi";

export interface MarkedSpan extends Span {
  readonly isMarked: boolean;
}

const LONGEST_MARKED = 4_096; // Matches beyond this many characters of a line are not marked.

const MOST_CHOICES = 6; // One after another, each choice doubles the time that a match can take.

/**
 * Returns a regular expression that finds the matches of an RE2 pattern; null if the browser cannot do so in a short
 * time. A pattern with several repetitions, or with many choices one after another, could take the browser minutes for
 * one line.
 */
export function markerOf(pattern: string): RegExp | null {
  if (pattern === "" || pattern.length > 1_000) return null;
  const flags = /^\(\?([is]+)\)/.exec(pattern);
  const rest = flags ? pattern.slice(flags[0].length) : pattern;
  const withoutEscapes = rest.replace(/\\./g, "x").replace(/\[\^?\]?[^\]]*\]/g, "x");
  const repetitions = withoutEscapes.match(/[*+]|\{\d+,?\d*\}/g) ?? [];
  if (repetitions.length > 1 || /\)(?:[*+]|\{)/.test(withoutEscapes)) return null;
  if (choicesOf(withoutEscapes) > (repetitions.length ? MOST_CHOICES / 2 : MOST_CHOICES)) return null;
  try {
    return new RegExp(rest, `gu${flags?.[1] ?? ""}`);
  } catch {
    return null; // RE2 accepts some patterns that the browser does not.
  }
}

/** Returns the number of optional parts, and of alternatives in groups. Alternatives of the whole pattern only add up. */
function choicesOf(pattern: string): number {
  let choices = 0;
  let depth = 0;
  for (const [index, character] of [...pattern].entries()) {
    if (character === "(") depth += 1;
    else if (character === ")") depth -= 1;
    else if (character === "|" && depth > 0) choices += 1;
    else if (character === "?" && pattern[index - 1] !== "(") choices += 1;
  }
  return choices;
}

/** Returns the pieces of a line, divided at the matches. */
export function markMatches(spans: readonly Span[], marker: RegExp | null): MarkedSpan[] {
  if (!marker) return spans.map((span) => ({ ...span, isMarked: false }));
  const text = spans.map((span) => span.text).join("").slice(0, LONGEST_MARKED);
  const edges: number[] = [];
  for (const match of text.matchAll(marker)) {
    if (match[0] !== "") edges.push(match.index, match.index + match[0].length);
  }
  if (edges.length === 0) return spans.map((span) => ({ ...span, isMarked: false }));
  const marked: MarkedSpan[] = [];
  let at = 0;
  let edge = 0;
  for (const span of spans) {
    const end = at + span.text.length;
    let start = at;
    while (start < end) {
      while (edge < edges.length && edges[edge]! <= start) edge += 1;
      const stop = Math.min(end, edges[edge] ?? end);
      // Between an even and an odd edge lies a match.
      marked.push({ ...span, text: span.text.slice(start - at, stop - at), isMarked: edge % 2 === 1 });
      start = stop;
    }
    at = end;
  }
  return marked;
}

// Finds the next line that matches a pattern, in all lanes of a document. The server searches.

import { Code, ConnectError } from "@connectrpc/connect";
import { entriesOf, type AttemptLog } from "./attempt_log";
import type { Lane } from "./lane";
import type { WindowRow } from "./log_window";
import { keyOf, type Entry } from "./lines";
import { SOURCES } from "./records";
import type { LogServer, PartPlace } from "./server";

export type Direction = "next" | "previous";

export interface Match {
  readonly key: string;
  readonly entry: Entry;
  /** Which log could not be searched, so that a nearer match may exist; empty if all logs were searched. */
  readonly unsearched: string;
}

export interface Search {
  readonly lanes: readonly Lane[];
  readonly server: LogServer;
  /** An RE2 pattern. */
  readonly pattern: string;
  readonly direction: Direction;
  /** The search begins after this row, or before it; undefined begins at the beginning or the end. */
  readonly from: WindowRow | undefined;
  readonly signal: AbortSignal;
  readonly progress: (searchedBytes: number) => void;
}

/** Where the search of one lane goes on. */
interface Cursor {
  readonly lane: Lane;
  readonly index: number;
  attempt: number;
  place: PartPlace;
  match: Entry | null;
  isOver: boolean;
  /** Why the rest of the lane could not be searched; empty if it was searched. */
  error: string;
}

const READS_OF_A_CALL = 64;

/**
 * Returns the nearest match in a direction; null if there is none. Throws an error if the only logs that may have a match
 * cannot be read.
 *
 * 1. Read a part of each lane that has neither a match nor an end yet.
 * 2. Continue behind the part, or in the next attempt.
 * 3. When each lane has a match or is over, the match that is nearest in time wins.
 */
export async function findMatch(search: Search): Promise<Match | null> {
  const cursors = search.lanes.map((lane, index) => startOf(search, lane, index));
  let searched = 0;
  for (;;) {
    const open = cursors.filter((cursor) => !cursor.isOver && !cursor.match);
    if (open.length === 0) break;
    for (let at = 0; at < open.length; at += READS_OF_A_CALL) {
      searched += await readOnce(search, open.slice(at, at + READS_OF_A_CALL));
      search.progress(searched);
    }
  }
  const found = cursors.filter((cursor) => cursor.match !== null);
  const sign = search.direction === "next" ? 1 : -1;
  found.sort((a, b) => sign * (a.match!.timeMs - b.match!.timeMs || a.index - b.index));
  const match = found[0]?.match;
  const failed = cursors.find((cursor) => cursor.error);
  const unsearched = failed ? `The log of task ${failed.lane.task} could not be searched: ${failed.error}` : "";
  if (!match && unsearched) throw new ConnectError(unsearched, Code.FailedPrecondition);
  return match ? { key: keyOf(match), entry: match, unsearched } : null;
}

function startOf(search: Search, lane: Lane, index: number): Cursor {
  const { from, direction } = search;
  const last = lane.onlyOne ? lane.first : lane.attempts.length - 1;
  const cursor: Cursor = { lane, index, attempt: direction === "next" ? lane.first : last, place: null, match: null, isOver: false, error: "" };
  if (from) {
    const { row } = from;
    if (from.lane === index) {
      cursor.attempt = row.attempt;
      if (row.kind === "line" || row.kind === "gap") cursor.place = { source: SOURCES[row.source]!, offset: row.end - 1 };
      else if (row.kind === "start" && direction === "previous") cursor.attempt -= 1;
      else if (row.kind === "end" && direction === "next") cursor.attempt += 1;
    } else {
      const started = lane.attempts.filter((log) => log.startedMs > 0 && log.startedMs <= row.timeMs);
      cursor.attempt = started.at(-1)?.attempt ?? (direction === "next" ? lane.first : -1);
      // Lines of the same millisecond come before the row in earlier lanes, and after the row in later lanes.
      if (started.length) cursor.place = { timeMs: row.timeMs + (index < from.lane ? 1 : 0) };
    }
  }
  cursor.isOver = !logOf(cursor);
  return cursor;
}

function logOf(cursor: Cursor): AttemptLog | undefined {
  const { lane, attempt } = cursor;
  if (attempt < lane.first || (lane.onlyOne && attempt !== lane.first)) return undefined;
  return lane.attempts[attempt];
}

/** Reads one part for each cursor, and returns how many bytes the server has searched. */
async function readOnce(search: Search, cursors: readonly Cursor[]): Promise<number> {
  const backwards = search.direction === "previous";
  const parts = await search.server.fetchParts(
    cursors.map(({ lane, attempt, place }) => ({ task: lane.task, attempt, place, backwards, stop: 0 })),
    search.pattern,
    search.signal,
  );
  let searched = 0;
  cursors.forEach((cursor, number) => {
    const part = parts[number];
    if (!part || part.error) {
      cursor.isOver = true;
      cursor.error = part?.error ?? "the answer has no part for it";
      return;
    }
    searched += part.end - part.begin;
    const entries = entriesOf(part).filter((entry) => entry.kind === "line" && isBeyond(search, cursor, entry));
    cursor.match = (backwards ? entries.at(-1) : entries[0]) ?? null;
    if (cursor.match) return;
    const isAtEdge = backwards ? part.begin === 0 : part.atEnd || part.end === part.begin;
    if (!isAtEdge) {
      cursor.place = { position: backwards ? part.begin : part.end };
      return;
    }
    cursor.attempt += backwards ? -1 : 1;
    cursor.place = null;
    cursor.isOver = !logOf(cursor);
  });
  return searched;
}

/** Whether an entry is on the searched side of the row at which the search begins. */
function isBeyond(search: Search, cursor: Cursor, entry: Entry): boolean {
  const row = search.from?.row;
  if (!row || search.from!.lane !== cursor.index || cursor.attempt !== row.attempt) return true;
  if (row.kind !== "line" && row.kind !== "gap") return true;
  if (entry.source !== row.source) return true;
  return search.direction === "next" ? entry.start >= row.end : entry.end <= row.start;
}

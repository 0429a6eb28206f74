// The choices of the log view, as they are in its address: which tasks and attempt, the filter, and the selected line.

import { parseTime } from "./engine/time_text";
import { SOURCES, type Source } from "./engine/records";

export interface LogsQuery {
  /** The chosen tasks as text, for example `0,2,5-9`; empty for the default. */
  readonly tasks: string;
  /** The chosen attempt; null shows all attempts. */
  readonly attempt: number | null;
  readonly sources: readonly Source[];
  /** An RE2 pattern; only matching lines are shown. */
  readonly grep: string;
  readonly since: string;
  readonly until: string;
  /** An RE2 pattern; matches are marked, and the keys n and N go from one to the next. */
  readonly find: string;
  /** The key of the selected row; empty if no row is selected. */
  readonly line: string;
  readonly wraps: boolean;
  readonly showsTimes: boolean;
}

export function parseLogsQuery(query: URLSearchParams): LogsQuery {
  const attempt = query.get("attempt") ?? "";
  return {
    tasks: query.get("tasks") ?? query.get("task") ?? "",
    attempt: /^\d{1,9}$/.test(attempt) ? Number(attempt) : null,
    sources: SOURCES.filter((source) => query.getAll("source").join(",").split(",").includes(source)),
    grep: query.get("grep") ?? "",
    since: query.get("since") ?? "",
    until: query.get("until") ?? "",
    find: query.get("find") ?? "",
    line: query.get("line") ?? "",
    wraps: query.get("wrap") === "1",
    showsTimes: query.get("times") === "1",
  };
}

/**
 * Returns the indices of the chosen tasks; null if the text is not understood.
 *
 * @param text - for example `3`, `0,2,5-9` or `all`; empty chooses all tasks
 */
export function parseTasks(text: string, count: number): number[] | null {
  const trimmed = text.trim();
  if (trimmed === "" || trimmed === "all") return Array.from({ length: count }, (_, index) => index);
  const chosen = new Set<number>();
  for (const part of trimmed.split(",")) {
    const match = /^\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*$/.exec(part);
    if (!match) return null;
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (first > last || last >= count) return null;
    for (let index = first; index <= last; index += 1) chosen.add(index);
  }
  return [...chosen].sort((one, other) => one - other);
}

/** The filter of the wire, and what is wrong with the filter of the address. */
export interface ParsedFilter {
  readonly regex: string;
  readonly sources: readonly Source[];
  readonly startMs: number;
  readonly endMs: number;
  /** The name of the field whose time is not understood; empty if all are. */
  readonly wrong: "" | "since" | "until";
}

export function parseFilter(query: LogsQuery, nowMs: number): ParsedFilter {
  const start = query.since ? parseTime(query.since, nowMs) : 0;
  const end = query.until ? parseTime(query.until, nowMs) : 0;
  const wrong = start === null ? "since" : end === null ? "until" : "";
  // All three sources select everything, so the filter is empty.
  const sources = query.sources.length === SOURCES.length ? [] : query.sources;
  return { regex: query.grep, sources, startMs: start ?? 0, endMs: end ?? 0, wrong };
}

/** Whether the server leaves out lines. */
export function isFiltering(filter: ParsedFilter): boolean {
  return filter.regex !== "" || filter.sources.length > 0 || filter.startMs > 0 || filter.endMs > 0;
}

/** Returns the address of the exact bytes of tasks on the log route, below the address of the session. */
export function downloadPath(jobId: string, tasks: readonly number[], allTasks: boolean, query: LogsQuery): string {
  const parameters = new URLSearchParams({ format: "raw" });
  if (!allTasks) for (const task of tasks) parameters.append("task", String(task));
  if (query.attempt !== null) parameters.set("attempt", String(query.attempt));
  for (const source of query.sources) parameters.append("source", source);
  return `v1/jobs/${encodeURIComponent(jobId)}/logs?${parameters}`;
}

// The rows of the log: lines, gaps, and the rows at the beginning and the end of an attempt.

import { memo } from "../../parts/memo";
import { bytesText, countText } from "../../parts/numbers";
import { StateShape } from "../../parts/state";
import { styleOf } from "../../parts/states";
import { durationText, momentText } from "../../parts/time_text";
import { textColourOn, renderLine, visibleText, type Style } from "./engine/ansi";
import { markMatches } from "./engine/highlight";
import type { Separator } from "./engine/lane";
import type { Gap, Line } from "./engine/lines";
import type { Block, LogWindow, WindowRow } from "./engine/log_window";
import { SOURCES } from "./engine/records";

export interface RowSettings {
  readonly showsTimes: boolean;
  readonly showsTasks: boolean;
  readonly marker: RegExp | null;
  /** The key of the selected row; empty if no row is selected. */
  readonly selected: string;
  readonly downloadUrl: string;
}

interface BlockProps {
  readonly block: Block;
  readonly settings: RowSettings;
  readonly window: LogWindow;
  /** The `shownVersion` of the window. */
  readonly shownVersion: number;
}

/** A group of rows. It is drawn again only if its rows, the shown rows or the settings change. */
export const BlockRows = memo(
  ({ block, settings, window }: BlockProps) => (
    <div class="log-block">
      {block.rows.map(
        (row) => (window.isShown(row) || row.key === settings.selected) && <RowView key={row.key} row={row} settings={settings} />,
      )}
    </div>
  ),
  (before, after) =>
    before.block === after.block &&
    before.shownVersion === after.shownVersion &&
    (before.settings === after.settings || isSame(before.settings, after.settings, after.block)),
);

/** Whether settings draw a group alike. The selection matters only to the group that contains it. */
function isSame(one: RowSettings, other: RowSettings, block: Block): boolean {
  if (one.showsTimes !== other.showsTimes || one.showsTasks !== other.showsTasks || one.marker !== other.marker) return false;
  if (one.downloadUrl !== other.downloadUrl) return false;
  return one.selected === other.selected || !block.rows.some(({ key }) => key === one.selected || key === other.selected);
}

function RowView({ row: { row, key }, settings }: { row: WindowRow; settings: RowSettings }) {
  const selected = key === settings.selected ? " log-row-selected" : "";
  if (row.kind === "line") return <LineRow line={row} rowKey={key} selected={selected} settings={settings} />;
  if (row.kind === "gap") return <GapRow gap={row} rowKey={key} selected={selected} settings={settings} />;
  return <SeparatorRow row={row} rowKey={key} selected={selected} settings={settings} />;
}

interface RowProps {
  readonly rowKey: string;
  readonly selected: string;
  readonly settings: RowSettings;
}

/** A line that is not finished yet, at the end of the log. */
export function UnfinishedRow({ line, settings }: { line: Line; settings: RowSettings }) {
  return <LineRow line={line} rowKey="" selected=" log-row-unfinished" settings={settings} />;
}

/**
 * Stands above the first drawn row if lines before it were skipped. No line is missing: the lines are read when the
 * user scrolls up.
 */
export function SkippedRow({ bytes }: { bytes: number }) {
  if (bytes <= 0) return null;
  return (
    <div class="log-row log-separator log-skipped">
      <span class="log-text">About {bytesText(bytes)} were written too fast to show here. Scroll up to read them.</span>
    </div>
  );
}

function LineRow({ line, rowKey, selected, settings }: RowProps & { line: Line }) {
  const { showsTimes, showsTasks, marker, downloadUrl } = settings;
  const source = SOURCES[line.source]!;
  return (
    <div class={`log-row log-${source}${selected}`} data-key={rowKey || undefined}>
      {showsTimes && <span class="log-time">{clockMs(line.timeMs)}</span>}
      {showsTasks && <span class="log-task">{line.task}</span>}
      <span class="log-source" title={source}>
        {source === "stdout" ? "" : source === "stderr" ? "err" : "build"}
      </span>
      <span class="log-text">
        {markMatches(renderLine(line.data), marker).map(({ text, style, isEscape, isMarked }, index) => {
          const css = classesOf(style) + (isEscape ? " log-escape" : "");
          const colours = coloursOf(style);
          if (isMarked) return <mark key={index} class={css} style={colours}>{text}</mark>;
          return css === "" && colours === undefined ? text : <span key={index} class={css} style={colours}>{text}</span>;
        })}
        {line.skipped > 0 && (
          <span class="log-cut">
            {" "}… {bytesText(line.skipped)} more, <a href={downloadUrl} download>download</a>
          </span>
        )}
      </span>
    </div>
  );
}

function GapRow({ gap, rowKey, selected, settings }: RowProps & { gap: Gap }) {
  return (
    <div class={`log-row log-gap${selected}`} data-key={rowKey}>
      {settings.showsTasks && <span class="log-task">{gap.task}</span>}
      <span class="log-text">
        {countText(gap.end - gap.start)} bytes of {SOURCES[gap.source]} are missing here: {visibleText(gap.reason)}
      </span>
    </div>
  );
}

function SeparatorRow({ row, rowKey, selected, settings }: RowProps & { row: Separator }) {
  const { log, kind, task, attempt } = row;
  const name = `${settings.showsTasks ? `Task ${task}, attempt` : "Attempt"} ${attempt}`;
  if (kind === "start") {
    return (
      <div class={`log-row log-separator${selected}`} data-key={rowKey}>
        <span class="log-text">
          {name} {log.startedMs > 0 && `started ${momentText(log.startedMs)}`} {log.workerId && `on ${visibleText(log.workerId)}`}
        </span>
      </div>
    );
  }
  const { outcome } = log;
  const state = outcome?.state ?? 0;
  const ran = log.startedMs && log.finishedMs ? ` after ${durationText(log.finishedMs - log.startedMs)}` : "";
  return (
    <div class={`log-row log-separator log-end state-${styleOf(state).css}${selected}`} data-key={rowKey}>
      <span class="log-text">
        <StateShape state={state} /> {name} {styleOf(state).label}
        {exitText(outcome)}
        {ran}
        {outcome?.error && !exitText(outcome).endsWith(` ${outcome.error}`) && <span class="log-reason">: {visibleText(outcome.error)}</span>}
        {log.missingReason && <span class="log-reason"> The end of the log is missing: {visibleText(log.missingReason)}</span>}
      </span>
    </div>
  );
}

function exitText(outcome: Separator["log"]["outcome"]): string {
  if (!outcome || outcome.exitCode === null) return "";
  if (outcome.exitCode === 0 && styleOf(outcome.state).name === "SUCCEEDED") return ""; // The word says the same.
  return outcome.signal ? ` by signal ${outcome.signal}, exit code ${outcome.exitCode}` : ` with exit code ${outcome.exitCode}`;
}

function classesOf(style: Style): string {
  const { foreground, background } = style;
  const names: string[] = [];
  const [front, back] = style.inverse ? [background, foreground] : [foreground, background];
  if (style.inverse) names.push("ansi-inverse");
  if (typeof front === "number" && typeof back !== "string") names.push(`ansi-${front}`);
  if (typeof back === "number") names.push(`ansi-on-${back}`);
  for (const name of ["bold", "dim", "italic", "underline", "strike"] as const) if (style[name]) names.push(`ansi-${name}`);
  return names.join(" ");
}

function coloursOf(style: Style): { color?: string; backgroundColor?: string } | undefined {
  const [front, back] = style.inverse ? [style.background, style.foreground] : [style.foreground, style.background];
  if (typeof back === "string") return { color: textColourOn(back, front), backgroundColor: back };
  return typeof front === "string" ? { color: front } : undefined;
}

function clockMs(timeMs: number): string {
  const date = new Date(timeMs);
  const digits = (value: number, count = 2) => String(value).padStart(count, "0");
  return `${digits(date.getHours())}:${digits(date.getMinutes())}:${digits(date.getSeconds())}.${digits(date.getMilliseconds(), 3)}`;
}

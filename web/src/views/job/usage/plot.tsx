// One plot, drawn by uPlot.

import { effect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { theme } from "../../../frame/theme";
import { momentText } from "../../../parts/time_text";
import { axisValues, largest, largestValue, timeLabel, timeRange, type Columns, type Measure } from "./usage_data";

const HEIGHT_PX = 136;
const TIME_AXIS_PX = 26;
const TIME_LABEL_PX = 76; // The least distance of two labels.
const AXIS_PX = 74;
const FEW_POINTS = 3; // So few points need a mark, because one point makes no line.

interface Props {
  columns: Columns;
  /** The names of the lines. */
  labels: readonly string[];
  /** How many of the last lines are limits, which are dashed. */
  limits: number;
  measure: Measure;
  summary: string;
}

/** The plot. A screen reader reads the title and the summary. */
export function Plot({ columns, labels, limits, measure, summary }: Props) {
  const { title } = measure;
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(columns);
  latest.current = columns;
  const shape = `${labels.join("\n")}|${limits}`;
  useEffect(() => {
    const element = holder.current;
    if (!element) return;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, labels, limits, measure), latest.current as uPlot.AlignedData, element);
    };
    const stop = effect(() => {
      void theme.value;
      make();
    });
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make);
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT_PX }));
    observer.observe(element);
    return () => {
      stop();
      scheme.removeEventListener("change", make);
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(columns as uPlot.AlignedData), [columns]);
  return (
    <figure class="plot">
      <figcaption>
        {title} <span class="muted">{summary}</span>
      </figcaption>
      <div ref={holder} role="img" aria-label={`${title} over time: ${summary}`} />
    </figure>
  );
}

const LINE_COLOURS = ["--accent", "--state-building", "--state-succeeded", "--state-killed", "--state-worker-failed", "--state-failed"];

function options(element: HTMLElement, labels: readonly string[], limits: number, { text, steps }: Measure): uPlot.Options {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--border"), width: 1 },
    ticks: { stroke: colour("--border"), width: 1 },
    font: "11px system-ui, sans-serif",
  };
  const value = (_: uPlot, raw: number | null) => (raw === null ? "" : text(raw));
  const isLimit = (line: number) => line >= labels.length - limits;
  const valuesOf = ({ data }: uPlot) => {
    const lines = data.slice(1) as (number | null)[][];
    const mostOf = (wanted: boolean) => largest(lines.filter((_, line) => isLimit(line) === wanted).map(largest));
    return axisValues(largestValue(mostOf(false), mostOf(true)) || 1, steps);
  };
  return {
    width: element.clientWidth || 300,
    height: HEIGHT_PX,
    cursor: { sync: { key: "usage" }, points: { size: 5 }, drag: { x: true, y: false } },
    legend: { live: true, markers: { width: 2, dash: (_, line) => (isLimit(line - 1) ? "dashed" : "solid") } },
    // For a single point, uPlot proposes an end that is years away.
    scales: {
      x: { range: ({ data }, first, last) => timeRange(first, data[0].length === 1 ? first : last) },
      y: { range: (plot) => [0, valuesOf(plot).at(-1) ?? 1] },
    },
    axes: [
      { ...axis, size: TIME_AXIS_PX, space: TIME_LABEL_PX, values: (_, splits, __, ___, stepS) => splits.map((at) => timeLabel(at, stepS)) },
      { ...axis, size: AXIS_PX, splits: valuesOf, values: (_, splits) => splits.map(text) },
    ],
    series: [
      { label: "", value: (_, at: number | null) => (at === null ? "" : momentText(at * 1_000)) },
      ...labels.map((label, index) => {
        const isDashed = isLimit(index);
        const stroke = colour(isDashed ? "--muted" : (LINE_COLOURS[index % LINE_COLOURS.length] ?? "--accent"));
        const only = labels.length - limits === 1 && !isDashed;
        return {
          label,
          stroke,
          width: isDashed ? 1 : 1.5,
          value,
          points: { show: ({ data }: uPlot) => !isDashed && data[0].length < FEW_POINTS },
          ...(isDashed ? { dash: [4, 4] } : {}),
          ...(only ? { fill: `${stroke}24` } : {}),
        };
      }),
    ],
  };
}

// What the tasks on workers have used over time, as two small plots.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { UsageSeries } from "../../gen/iris/rpc/cluster_pb";
import { bytesText } from "../../parts/numbers";
import { clockTime } from "../../parts/time_text";
import { describeError } from "../../rpc/errors";
import { controller } from "../../rpc/transport";
import { coresText } from "./amounts";
import { sumOf, type UsagePoint } from "./usage_sum";

/** The sum of more workers than this is not shown, because its points would take long to load. */
export const MOST_WORKERS = 100;
const MAX_POINTS = 120;
const PERIOD_MS = 4_000;
const WIDTH = 480;
const HEIGHT = 90;

/** The plots of the sum over the workers. `beat` changes whenever there may be new points. */
export function WorkerUsage({ workerIds, beat }: { workerIds: readonly string[]; beat: number }) {
  const [series, setSeries] = useState<readonly UsageSeries[] | null>(null);
  const [problem, setProblem] = useState("");
  const wanted = workerIds.join("\n");
  const loaded = useRef({ wanted: "", atMs: 0 });
  useEffect(() => {
    // New points come about every two seconds, and beats may come more often. In plots of this size, nobody sees a
    // difference if the points are read at most once in PERIOD_MS.
    if (loaded.current.wanted === wanted && Date.now() - loaded.current.atMs < PERIOD_MS) return undefined;
    loaded.current = { wanted, atMs: Date.now() };
    if (wanted === "") {
      setSeries([]);
      return undefined;
    }
    controller
      .getUsage({ workerIds: wanted.split("\n"), maxPoints: MAX_POINTS })
      .then((answer) => {
        if (loaded.current.wanted !== wanted) return; // Other workers are shown meanwhile.
        setSeries(answer.series);
        setProblem("");
      })
      .catch((error: unknown) => setProblem(describeError(error).text));
    return undefined;
  }, [wanted, beat]);
  const points = useMemo(() => sumOf(series ?? []), [series]);
  if (problem) return <p class="muted">The use over time cannot be loaded: {problem}</p>;
  if (!series) return <p class="muted">Loading the use over time…</p>;
  if (points.length < 2) return <p class="muted">Nothing was measured yet. Running tasks are measured about every two seconds.</p>;
  return (
    <div class="usage-plots">
      <Plot title="CPU" points={points} used={(point) => point.cores} requested={(point) => point.requestedCores} text={coresText} />
      <Plot
        title="Memory"
        points={points}
        used={(point) => point.memoryBytes}
        requested={(point) => point.requestedMemoryBytes}
        text={bytesText}
      />
    </div>
  );
}

interface PlotProps {
  title: string;
  points: readonly UsagePoint[];
  used: (point: UsagePoint) => number;
  requested: (point: UsagePoint) => number;
  text: (amount: number) => string;
}

function Plot({ title, points, used, requested, text }: PlotProps) {
  const first = points[0]?.timeMs ?? 0;
  const last = points[points.length - 1]?.timeMs ?? 0;
  const most = Math.max(...points.map((point) => Math.max(used(point), requested(point))));
  const path = (of: (point: UsagePoint) => number) =>
    points
      .map((point, index) => {
        const x = last > first ? ((point.timeMs - first) / (last - first)) * WIDTH : 0;
        return `${index ? "L" : "M"}${x.toFixed(1)} ${(HEIGHT - (of(point) / (most || 1)) * (HEIGHT - 2) - 1).toFixed(1)}`;
      })
      .join("");
  const newest = points[points.length - 1];
  const hasRequests = points.some((point) => requested(point) > 0);
  const wanted = newest && hasRequests ? `, ${text(requested(newest))} requested (dashed)` : "";
  const summary = newest ? `${text(used(newest))} used${wanted}` : "";
  return (
    <figure class="usage-plot">
      <figcaption>
        {title} <span class="muted">{summary}</span>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${title} over time: ${summary}`}>
        <path class="usage-area" d={`${path(used)}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z`} />
        <path class="usage-line" d={path(used)} />
        {hasRequests && <path class="usage-request" d={path(requested)} />}
      </svg>
      <div class="usage-axis muted numbers">
        <span>{clockTime(first)}</span>
        <span>{most > 0 ? `0 to ${text(most)}` : text(0)}</span>
        <span>{clockTime(last)}</span>
      </div>
    </figure>
  );
}

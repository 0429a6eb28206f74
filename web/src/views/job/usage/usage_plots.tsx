// What a job or some of its tasks have used over time.

import { useEffect, useMemo, useState } from "preact/hooks";
import type { UsageSeries } from "../../../gen/iris/rpc/cluster_pb";
import { describeError } from "../../../rpc/errors";
import { controller } from "../../../rpc/transport";
import { Plot } from "./plot";
import { columnsOf, CPU, GPU, GPU_MEMORY, MEMORY, summaryOf, type Measure } from "./usage_data";

const MOST_LINES = 6; // More lines cannot be told apart.

type Loaded = { series: readonly UsageSeries[]; problem: string };

interface Props {
  jobId: string;
  /** The tasks to show, each with a line of its own. Without tasks, the sum over all tasks is shown. */
  tasks: readonly number[];
  /** Changes whenever there may be new points: with each beat of the stream that the view watches. */
  beat: number;
}

/** The plots of CPU and memory, and of GPUs if a task has some. */
export function UsagePlots({ jobId, tasks, beat }: Props) {
  const [loaded, setLoaded] = useState<Loaded | null>(null);
  const wanted = tasks.slice(0, MOST_LINES).join(",");
  useEffect(() => {
    const abort = new AbortController();
    const load = async () => {
      try {
        const taskIndices = wanted === "" ? [] : wanted.split(",").map(Number);
        const { series } = await controller.getUsage({ jobId, taskIndices }, { signal: abort.signal });
        setLoaded({ series: series.filter((one) => one.timesMs.length > 0), problem: "" });
      } catch (error) {
        const { kind, text } = describeError(error);
        if (kind !== "cancelled") setLoaded({ series: [], problem: text });
      }
    };
    void load();
    return () => abort.abort();
  }, [jobId, wanted, beat]);
  if (!loaded) return <p class="muted">Loading the usage…</p>;
  if (loaded.problem) return <p class="muted">The usage cannot be loaded: {loaded.problem}</p>;
  const { series } = loaded;
  const first = series[0];
  if (!first) return <p class="muted">Nothing was measured. Tasks are measured about every two seconds while they run.</p>;
  const measures = [CPU, MEMORY, ...(series.some((one) => one.gpuPercent.length > 0) ? [GPU, GPU_MEMORY] : [])];
  return (
    <div class="plots">
      {measures.map((measure) => (
        <MeasurePlot key={measure.title} measure={measure} series={series} isSum={tasks.length === 0} />
      ))}
    </div>
  );
}

function MeasurePlot({ measure, series, isSum }: { measure: Measure; series: readonly UsageSeries[]; isSum: boolean }) {
  const columns = useMemo(() => columnsOf(series, measure), [series, measure]);
  const labels = series.map((one) => (isSum ? "used" : `task ${one.taskIndex}`));
  const limits = columns.length - 1 - labels.length;
  const first = series[0];
  return (
    <Plot
      measure={measure}
      summary={series.length === 1 && first ? summaryOf(first, measure) : ""}
      columns={columns}
      labels={[...labels, ...Array.from({ length: limits }, () => "requested")]}
      limits={limits}
    />
  );
}

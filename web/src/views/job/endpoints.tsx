// The endpoints that the job has registered.

import { useEffect, useState } from "preact/hooks";
import type { Controller_Endpoint } from "../../gen/iris/rpc/cluster_pb";
import { CopyButton } from "../../parts/copy";
import { visibleText } from "../../parts/visible_text";
import { describeError } from "../../rpc/errors";
import { controller } from "../../rpc/transport";

const MOST = 100;

/** The endpoints of a job that runs. An endpoint ends with its attempt or its job, so an ended job has none. */
export function Endpoints({ jobId, beat }: { jobId: string; beat: number }) {
  const [endpoints, setEndpoints] = useState<readonly Controller_Endpoint[]>([]);
  const [hasMore, setMore] = useState(false);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    controller.listEndpoints({ jobId, pageSize: MOST }, { signal: abort.signal }).then(
      (answer) => {
        setEndpoints(answer.endpoints);
        setMore(answer.nextPageToken !== "");
        setProblem("");
      },
      (error: unknown) => {
        const { kind, text } = describeError(error);
        if (kind !== "cancelled") setProblem(text);
      },
    );
    return () => abort.abort();
  }, [jobId, beat]);
  if (problem) return <p class="muted">The endpoints cannot be loaded: {problem}</p>;
  if (endpoints.length === 0) return null;
  return (
    <section aria-labelledby="endpoints-title">
      <h2 id="endpoints-title">
        Endpoints <span class="muted">{endpoints.length}{hasMore && ", and more"}</span>
      </h2>
      <ul class="endpoints">
        {endpoints.map((endpoint) => (
          <li key={endpoint.endpointId} class="failure-head">
            <strong>{visibleText(endpoint.name)}</strong>
            <code dir="ltr">{visibleText(endpoint.address)}</code>
            <CopyButton text={endpoint.address} label={`the address of ${endpoint.name}`} />
          </li>
        ))}
      </ul>
    </section>
  );
}

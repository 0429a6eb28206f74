// Makes the submission of a job that is submitted again. The module is pure.

import { clearField, clone, create } from "@bufbuild/protobuf";
import { Controller_LaunchJobRequestSchema, type Controller_LaunchJobRequest } from "../../gen/iris/rpc/cluster_pb";

const RANDOM_SUFFIX = /-[0-9a-f]{8}$/;
const MAX_NAME_BYTES = 200;

/** Returns a name with a new random suffix, which replaces an earlier random suffix. */
export function newName(name: string, random: string): string {
  let begin = name.replace(RANDOM_SUFFIX, "");
  const encoder = new TextEncoder();
  while (encoder.encode(begin).length + 1 + random.length > MAX_NAME_BYTES) begin = Array.from(begin).slice(0, -1).join("");
  return `${begin.trimEnd()}-${random}`;
}

/** Returns the submission of a new job that does what an earlier job did. */
export function retrySubmission(earlier: Controller_LaunchJobRequest, random: string, submissionId: string): Controller_LaunchJobRequest {
  return create(Controller_LaunchJobRequestSchema, {
    ...earlier,
    name: newName(earlier.askedName || earlier.name, random),
    askedName: "",
    submissionId,
    // The new job belongs to the user of the page, not to the task that submitted the earlier job.
    parentJobId: "",
    parentTaskIndex: 0,
    parentAttemptId: 0,
    stdin: false,
    after: [],
  });
}

/**
 * Restricts the submission of a job to the tasks that have not succeeded. A gang keeps all of its tasks, because it needs
 * them. Each task of the new job sees the index and the number of tasks of the earlier job. If the failure of all tasks
 * would have failed the earlier job, the failure of all its tasks also fails the new job.
 *
 * @param unsuccessful - the indices of the tasks that have not succeeded, in order
 */
export function keepUnsuccessful(
  submission: Controller_LaunchJobRequest,
  numTasks: number,
  unsuccessful: readonly number[],
): Controller_LaunchJobRequest {
  const kept = clone(Controller_LaunchJobRequestSchema, submission);
  if (!kept.independentTasks || unsuccessful.length === numTasks || !kept.resources) return kept;
  const seen = kept.seenTaskIndices;
  kept.seenTaskIndices = unsuccessful.map((index) => seen[index] ?? index);
  kept.seenNumTasks = kept.seenNumTasks || numTasks;
  // The new job has only some inputs of an earlier map, so it must not be taken for the whole map.
  clearField(kept, Controller_LaunchJobRequestSchema.field.inputsDigest);
  kept.resources.replicas = unsuccessful.length;
  // The new job must fail if all its tasks fail, as the earlier job would have done. `keep_unsuccessful` of
  // src/iris/client/retry/resubmit.py has the same rule.
  if (kept.maxTaskFailures < numTasks) kept.maxTaskFailures = Math.min(kept.maxTaskFailures, unsuccessful.length - 1);
  return kept;
}

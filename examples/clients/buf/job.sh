#!/usr/bin/env bash
# Submits a job with `buf curl`, follows its log, and says how it ended. Needs buf and jq.
#
#   job.sh PROTOCOL HTTP_VERSION COMMAND...
#   job.sh grpc 2 python train.py
#
# PROTOCOL is connect, grpc or grpcweb. HTTP_VERSION is 1.1 or 2; gRPC needs 2.
# IRIS_CONTROLLER_ADDRESS (http://… or https://…) and IRIS_TOKEN name the cluster. SCHEMA may name a folder with the
# schema. Otherwise buf asks the server for the schema, which needs HTTP/2.
set -euo pipefail

protocol=$1 version=$2
shift 2
flags=(--protocol "$protocol" --header "authorization: Bearer $IRIS_TOKEN")
if [ -n "${SCHEMA:-}" ]; then flags+=(--schema "$SCHEMA"); else flags+=(--reflect-header '*'); fi
if [[ $version = 2 && $IRIS_CONTROLLER_ADDRESS = http://* ]]; then flags+=(--http2-prior-knowledge); fi

call() { # call NAME JSON
  buf curl "${flags[@]}" --data "$2" "$IRIS_CONTROLLER_ADDRESS/iris.cluster.ControllerService/$1"
}

launch=$(jq -cn --arg name "buf-$(date +%s)-$$" '{name: $name, command: $ARGS.positional}' --args -- "$@")
job=$(call LaunchJob "$launch" | jq -r .jobId)
echo "submitted $job" >&2

# A page of the log has the lines from `startLine` on. The last page has `complete`.
line=0 complete=false
while [ "$complete" != true ]; do
  request=$(jq -cn --arg task "$job/task-0" --arg line "$line" '{taskId: $task, filter: {startLine: $line}}')
  page=$(call FetchTaskLogs "$request")
  jq -r '.logs[]?.data' <<<"$page"
  line=$(jq -r --arg line "$line" '.nextLine // $line' <<<"$page")
  complete=$(jq -r .complete <<<"$page")
  [ "$(jq -r .atEnd <<<"$page")" != true ] || sleep 0.2
done

request=$(jq -cn --arg job "$job" '{jobId: $job}')
until status=$(call GetJobStatus "$request") && jq -e '.job.finishedAtMs' <<<"$status" >/dev/null; do sleep 0.2; done
echo "$job ended $(jq -r '.job | .state + (if (.error // "") == "" then "" else ": " + .error end)' <<<"$status")" >&2
[ "$(jq -r .job.state <<<"$status")" = JOB_STATE_SUCCEEDED ]

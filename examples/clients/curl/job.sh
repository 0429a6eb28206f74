#!/usr/bin/env bash
# Submits a job with curl, follows its log, and says how it ended. Needs curl 7.82 or later and jq.
#
#   job.sh COMMAND...
#
# IRIS_CONTROLLER_ADDRESS (http://… or https://…) and IRIS_TOKEN name the cluster.
set -euo pipefail

ask() { # The token is not an argument of curl, because other users of the machine can read arguments.
  curl --silent --show-error --fail-with-body \
    --config <(printf 'header = "authorization: Bearer %s"\n' "$IRIS_TOKEN") "$@"
}

get_status() { # Calls that only read work with GET.
  ask --get --data encoding=json --data-urlencode "message=$(jq -cn --arg job "$1" '{jobId: $job}')" \
    "$IRIS_CONTROLLER_ADDRESS/iris.cluster.ControllerService/GetJobStatus"
}

launch=$(jq -cn --arg name "curl-$(date +%s)-$$" '{name: $name, command: $ARGS.positional}' --args -- "$@")
answer=$(ask --json "$launch" "$IRIS_CONTROLLER_ADDRESS/iris.cluster.ControllerService/LaunchJob") ||
  { jq -r '"the call failed with code \(.code): \(.message)"' <<<"$answer" >&2; exit 2; }
job=$(jq -r .jobId <<<"$answer")
echo "submitted $job" >&2

ask --no-buffer "$IRIS_CONTROLLER_ADDRESS/v1/jobs/$job/logs?follow=1"

until status=$(get_status "$job") && jq -e '.job.finishedAtMs' <<<"$status" >/dev/null; do sleep 0.2; done
echo "$job ended $(jq -r '.job | .state + (if (.error // "") == "" then "" else ": " + .error end)' <<<"$status")" >&2
[ "$(jq -r .job.state <<<"$status")" = JOB_STATE_SUCCEEDED ]

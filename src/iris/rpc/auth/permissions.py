"""Defines which roles may make which calls, with one table for each service.

Each call has a row in a table. The row maps roles to checks. A check decides whether a caller with the role may make a
given request. Most checks are `ANY`, which accepts every request. A caller whose role is not in the row may not make
the call. With a task's token, a caller may use the task's own job and the child jobs below it. With a worker's token, a
caller may report for that worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from iris.errors import InvalidArgumentError
from iris.rpc.auth.caller import ADMIN, CONTROLLER, READER, TASK, USER, WORKER, Caller
from iris.task_ids import parse_task_id


class Facts(Protocol):
    """Looks up facts about jobs and endpoints for the checks of permissions. Each check of a permission gets a `Facts`
    object together with the request.
    """

    def job_of_endpoint(self, endpoint_id: str) -> str | None:
        """Return the id of the job that an endpoint belongs to. Return an empty string if the endpoint belongs to no
        job, and None if the endpoint does not exist.
        """

    def owner_of_job(self, job_id: str) -> str | None:
        """Return the name of a job's owner, or None if there is no such job."""


# A check returns the reason why a caller may not make a request, or an empty text if the caller may make it.
Check = Callable[[Caller, Any, Facts], str]
Rules = Mapping[str, Mapping[str, Check]]


def _any(caller: Caller, request: Any, facts: Facts) -> str:
    return ""


ANY: Check = _any


def _own_job(caller: Caller, job_id: str) -> str:
    if caller.owns(job_id):
        return ""
    return f"a task's token is valid for its own job {caller.job_id!r}, not for {job_id!r}"


def _own_or_below(caller: Caller, job_id: str) -> str:
    if caller.owns(job_id) or caller.is_above(job_id):
        return ""
    return (
        f"a task's token is valid for its own job {caller.job_id!r} and the child jobs of that job, not for {job_id!r}"
    )


def _below(caller: Caller, job_id: str, action: str = "end") -> str:
    if caller.is_above(job_id):
        return ""
    return f"a task may only {action} child jobs of its own job {caller.job_id!r}, not {job_id!r}"


def _of_own_or_below(caller: Caller, request: Any, facts: Facts) -> str:
    return _own_or_below(caller, request.job_id)


def _of_below(caller: Caller, request: Any, facts: Facts) -> str:
    return _below(caller, request.job_id)


def _runs_below(caller: Caller, request: Any, facts: Facts) -> str:
    return _below(caller, request.job_id, "run commands in")


def _child_of_own_or_below(caller: Caller, request: Any, facts: Facts) -> str:
    for dependency in request.after:
        # A job with a dependency reveals how the other job ends. Therefore the caller needs the permission to read the
        # state of the other job.
        if refused := _own_or_below(caller, dependency.job_id):
            return refused
    return _own_or_below(caller, request.parent_job_id)


def _log_of_own_or_below(caller: Caller, request: Any, facts: Facts) -> str:
    try:
        job_id, _ = parse_task_id(request.task_id)
    except InvalidArgumentError:
        return ""  # The permission check lets an invalid task id pass, because the code of the call refuses it later.
    return _own_or_below(caller, job_id)


def _writes_as_owner(caller: Caller, request: Any, facts: Facts) -> str:
    try:
        job_id, _ = parse_task_id(request.task_id)
    except InvalidArgumentError:
        return ""  # The permission check lets an invalid task id pass, because the code of the call refuses it later.
    if caller.role == TASK:
        return _below(caller, job_id, "write files of")
    return _owned(caller, job_id, facts, "write files of its tasks")


def _endpoint_of_own(caller: Caller, request: Any, facts: Facts) -> str:
    return _own_job(caller, request.job_id)


def _of_owner(action: str) -> Check:
    def check(caller: Caller, request: Any, facts: Facts) -> str:
        return _owned(caller, request.job_id, facts, action)

    return check


def _owned(caller: Caller, job_id: str, facts: Facts, action: str) -> str:
    owner = facts.owner_of_job(job_id)
    if owner is None or owner == caller.name:
        return ""  # The permission check lets an unknown job pass, because the code of the call refuses it later.
    return f"only the owner {owner!r} of job {job_id!r} may {action}, not {caller.name!r}"


def refusal_of_memory_profile(caller: Caller, job_id: str, owner: str) -> str:
    """Return why a caller who may read the other stored outputs of a job may not read its memory profiles. Return an
    empty text if the caller may read them. The rule is the same as for stacks, because both show how a program works.
    """
    if caller.role in (ADMIN, TASK) or (caller.role == USER and caller.name == owner):
        return ""
    return (
        f"only the owner {owner!r} of job {job_id!r} and admins may read its memory profiles, not {caller.name!r} with"
        f" the role {caller.role!r}"
    )


def _resubmits_below(caller: Caller, request: Any, facts: Facts) -> str:
    if refused := _own_or_below(caller, request.submission.parent_job_id):
        return refused
    if caller.is_above(request.job_id):
        return ""
    return (
        f"a task may only submit child jobs of its own job {caller.job_id!r} again, because a submission may contain"
        f" secrets, not {request.job_id!r}"
    )


def _known_endpoint_of_own(caller: Caller, request: Any, facts: Facts) -> str:
    job_id = facts.job_of_endpoint(request.endpoint_id)
    return "" if job_id is None else _own_job(caller, job_id)


def _is_it(caller: Caller, request: Any, facts: Facts) -> str:
    return _same_worker(caller, request.worker_id)


def _reports_its_own(caller: Caller, request: Any, facts: Facts) -> str:
    for worker_id in (request.worker_id, *(report.worker_id for report in request.reports)):
        if refused := _same_worker(caller, worker_id):
            return refused
    return ""


def _same_worker(caller: Caller, worker_id: str) -> str:
    if caller.worker_id == worker_id:
        return ""
    return f"this token belongs to worker {caller.worker_id!r}, not to {worker_id!r}"


def _row(*roles: str, **checked: Check) -> Mapping[str, Check]:
    return dict.fromkeys((ADMIN, *roles), ANY) | checked


CONTROLLER_RULES: Rules = {
    "LaunchJob": _row(USER, task=_child_of_own_or_below),
    "GetJobStatus": _row(USER, READER, task=_of_own_or_below),
    "TerminateJob": _row(USER, task=_of_below),
    "TerminateTask": _row(USER, task=_of_below),
    "ForgetJob": _row(user=_of_owner("remove it"), task=_of_below),
    "WriteStdin": _row(user=_of_owner("write its standard input"), task=_of_below),
    "OpenTunnel": _row(user=_of_owner("reach its ports"), task=_of_own_or_below),
    "WriteTunnel": _row(user=_of_owner("reach its ports"), task=_of_own_or_below),
    "ReadStacks": _row(user=_of_owner("read the stacks of its tasks"), task=_of_own_or_below),
    "SampleStacks": _row(user=_of_owner("sample the stacks of its tasks"), task=_of_own_or_below),
    "OpenExec": _row(user=_of_owner("run commands in its tasks"), task=_runs_below),
    "WriteExec": _row(user=_of_owner("run commands in its tasks"), task=_runs_below),
    "GetSubmission": _row(USER, READER, task=_of_own_or_below),
    "ResubmitJob": _row(
        user=_of_owner("submit it again, because its environment may contain secrets"), task=_resubmits_below
    ),
    "ListJobs": _row(USER, READER),
    "GetTaskStatus": _row(USER, READER, task=_of_own_or_below),
    "ListTasks": _row(USER, READER, task=_of_own_or_below),
    "WatchJob": _row(USER, READER, task=_of_own_or_below),
    "WatchJobs": _row(USER, READER),
    "StreamResults": _row(USER, READER, task=_of_own_or_below),
    "StreamTaskLogs": _row(USER, READER, task=_of_own_or_below),
    "FetchTaskLogs": _row(USER, READER, task=_log_of_own_or_below),
    "FetchLogParts": _row(USER, READER, task=_of_own_or_below),
    "ListTaskFiles": _row(USER, READER, task=_log_of_own_or_below),
    "ReadTaskFile": _row(USER, READER, task=_log_of_own_or_below),
    "WriteTaskFile": _row(user=_writes_as_owner, task=_writes_as_owner),
    "ListOutputs": _row(USER, READER, task=_of_own_or_below),
    "RegisterEndpoint": _row(USER, task=_endpoint_of_own),
    "UnregisterEndpoint": _row(USER, task=_known_endpoint_of_own),
    "LookupEndpoint": _row(USER, READER, TASK),
    "ListEndpoints": _row(USER, READER, TASK),
    "DescribeCluster": _row(USER, READER, TASK),
    "CheckCluster": _row(USER, READER),
    "GetUsage": _row(USER, READER, task=_of_own_or_below),
    "ListWorkers": _row(USER, READER),
    "ListMachines": _row(USER, READER),
    "WatchCluster": _row(USER, READER),
    "WatchEvents": _row(USER, READER, task=_of_own_or_below),
    "ListWebhooks": _row(),
    "RegisterWorker": _row(worker=_is_it),
    "ReportTaskState": _row(worker=_is_it),
    "ReportTaskStates": _row(worker=_reports_its_own),
    "StoreLogs": _row(worker=_is_it),
    "StoreOutputs": _row(worker=_is_it),
    "FetchBundle": _row(WORKER),
    "FetchInput": _row(WORKER),
    "CreateToken": _row(),
    "ListTokens": _row(),
    "RevokeToken": _row(),
    "CreateSignInCode": _row(USER, READER),
    "SignOut": _row(USER, READER),
}

# Not even an admin may start or stop attempts on a worker directly, because the controller would not notice the change.
_BY_CONTROLLER: Mapping[str, Check] = {CONTROLLER: ANY}

WORKER_RULES: Rules = {
    "RunTask": _BY_CONTROLLER,
    "RunTasks": _BY_CONTROLLER,
    "KillTask": _BY_CONTROLLER,
    "Drain": _BY_CONTROLLER,
    "ForgetJob": _BY_CONTROLLER,
    "WriteStdin": _BY_CONTROLLER,
    "OpenTunnel": _BY_CONTROLLER,
    "WriteTunnel": _BY_CONTROLLER,
    "ReadStacks": _BY_CONTROLLER,
    "SampleStacks": _BY_CONTROLLER,
    "OpenExec": _BY_CONTROLLER,
    "WriteExec": _BY_CONTROLLER,
    "GetTaskStatus": _row(USER, READER, CONTROLLER),
    "ListTasks": _row(USER, READER, CONTROLLER),
    "FetchTaskLogs": _row(USER, READER, CONTROLLER, task=_log_of_own_or_below),
    "StreamTaskLogs": _row(USER, READER, CONTROLLER, task=_of_own_or_below),
    "FetchLogParts": _row(USER, READER, CONTROLLER, task=_of_own_or_below),
    "ListTaskFiles": _row(USER, READER, CONTROLLER, task=_log_of_own_or_below),
    "ReadTaskFile": _row(USER, READER, CONTROLLER, task=_log_of_own_or_below),
    "WriteTaskFile": _row(CONTROLLER, user=_writes_as_owner, task=_writes_as_owner),
}

# The permissions of these calls also apply to the metrics of the controller and of a worker (`GET /metrics`).
CONTROLLER_METRICS_CALL = "ListWorkers"
WORKER_METRICS_CALL = "ListTasks"

# The calls that need no token. `SignIn` checks a token or a code in its request.
OPEN = frozenset({"HealthCheck", "SignIn"})

"""Registers workers, and applies the workers' reports about their attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from iris.cluster.controller.auth.authority import Authority
from iris.cluster.controller.hangs.hang_watch import HangWatch
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.task import AttemptEnd
from iris.cluster.controller.storage.contents.stored_outcome import outcome_of
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.submission.sizes import trim_report
from iris.cluster.controller.usage.history import UsageHistory
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.types import is_task_finished, parse_task_id
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

Report = cluster_pb2.Controller.ReportTaskStateRequest


class WorkerReports:
    """Answers the calls of workers: registrations, heartbeats, and reports about attempts.

    Args:
        jobs: The table of all jobs of the cluster.
        fleet: The object that knows all workers of the cluster.
        saver: The object that saves the changed jobs.
        authority: The object that provides the list of revoked tokens.
        address: The controller's base URL, which workers pass to their tasks.
        wake_scheduler: A function to call when a worker has registered or was refused, because a gang may wait for this
            worker.
        usage: The object that stores what attempts use over time.
        hangs: The object that decides which jobs seem to hang; None watches the jobs that set a time themselves.
    """

    def __init__(
        self,
        jobs: JobTable,
        fleet: Fleet,
        saver: Saver,
        authority: Authority,
        address: str,
        wake_scheduler: Callable[[], None],
        usage: UsageHistory,
        hangs: HangWatch | None = None,
    ) -> None:
        self._jobs = jobs
        self._fleet = fleet
        self._saver = saver
        self._authority = authority
        self._address = address
        self._wake_scheduler = wake_scheduler
        self._usage = usage
        self._hangs = hangs or HangWatch()

    async def register(
        self, request: cluster_pb2.Controller.RegisterWorkerRequest
    ) -> cluster_pb2.Controller.RegisterWorkerResponse:
        """Register a worker. If the worker is accepted, the answer contains the controller's address and the worker's
        lease.

        A process of a worker is not accepted if the process is fenced, or if its release of Iris is incompatible (see
        `iris.versions`). A process that is not accepted has to end.
        """
        answer = self._fleet.register(request)
        if answer.accepted or answer.refused:
            self._wake_scheduler()
        if answer.accepted:
            answer.controller_address = self._address
            await self._saver.settled()
        return answer

    async def report_states(
        self, request: cluster_pb2.Controller.ReportTaskStatesRequest
    ) -> cluster_pb2.Controller.ReportTaskStatesResponse:
        """Apply a worker's reports, and return once the resulting changes are saved. The answer names the running
        attempts in the reports that are not live on this worker for the controller, for example because their job has
        ended. The worker has to stop these attempts.

        Raises:
            IrisError: The changes cannot be saved now. The worker has to report again.
        """
        answer = cluster_pb2.Controller.ReportTaskStatesResponse()
        answer.revocations, revoked = self._authority.revocations(request.revocations)
        answer.revoked.extend(revoked)
        if not self._fleet.hear(request, answer):
            return answer
        for job_id, reports in _by_job(request.reports).items():
            for report in self._apply(job_id, reports):
                if not is_task_finished(report.state):
                    answer.unwanted.add(task_id=report.task_id, attempt_id=report.attempt_id)
        self._usage.worker_reported(request.worker_id)
        if request.reports:
            await self._saver.saved()
        return answer

    async def report_state(self, report: Report) -> None:
        """Apply the report about one attempt, and return once the resulting changes are saved.

        Raises:
            InvalidArgumentError: The task id is malformed.
            NotFoundError: There is no such job or task.
            IrisError: The changes cannot be saved now. The worker has to report again.
        """
        job_id, task_index = parse_task_id(report.task_id)
        (await self._jobs.find(job_id)).check_index(task_index)
        self._apply(job_id, [report])
        await self._saver.saved()

    def _apply(self, job_id: str, reports: Sequence[Report]) -> list[Report]:
        """Apply a worker's reports about one job. Return the reports that were not applied, because their attempts are
        not live on this worker.
        """
        record = self._jobs.by_id.get(job_id)
        if record is None:  # The job has ended or was removed, so none of its attempts is live, and no report applies.
            return list(reports)
        job = record.job
        unwanted, accepted, instructions, results = [], [], [], []
        for report in reports:
            trim_report(report)
            live = job.live_attempts([report.task_index]) if 0 <= report.task_index < len(job.tasks) else {}
            attempt = live.get(report.task_index)
            if report.job_submitted_at_ms not in (0, job.submitted_at_ms):
                attempt = None  # The report does not apply, because it is about a removed job that had the same name.
            if attempt is None or (attempt.attempt_id, attempt.worker_id) != (report.attempt_id, report.worker_id):
                unwanted.append(report)
                continue
            record.update_facts(report)
            accepted.append(report)
            if report.started_at_ms:
                instructions += job.attempt_running(report.task_index, report.attempt_id, report.started_at_ms)
            if is_task_finished(report.state):
                if outcome := outcome_of(report):
                    results.append((report.task_index, outcome))
                instructions += job.attempt_ended(report.task_index, report.attempt_id, _end_of(report), now_ms())
        instructions += self._hangs.check(record)
        self._saver.job_changed(record, instructions, results)
        self._usage.report(record, accepted)
        return unwanted


def _by_job(reports: Iterable[Report]) -> dict[str, list[Report]]:
    grouped: dict[str, list[Report]] = {}
    for report in reports:
        grouped.setdefault(report.job_id, []).append(report)
    return grouped


def _end_of(report: Report) -> AttemptEnd:
    return AttemptEnd(
        state=report.state,
        finished_at_ms=report.finished_at_ms or now_ms(),
        exit_code=report.exit_code if report.HasField("exit_code") else None,
        term_signal=report.term_signal if report.HasField("term_signal") else None,
        error=report.error,
        result_error=report.result_error,
        out_of_memory=report.out_of_memory,
        failure=report.failure_reason or _guess_failure(report),
    )


def _guess_failure(report: Report) -> int:
    """Return the failure code for a report without a code. Workers of older releases send such reports."""
    if report.state != cluster_pb2.TASK_STATE_FAILED:
        return FailureCode.UNSPECIFIED
    if report.out_of_memory:
        return FailureCode.OUT_OF_MEMORY
    if report.HasField("term_signal"):
        return FailureCode.SIGNAL
    return FailureCode.EXIT_CODE if report.exit_code else FailureCode.UNSPECIFIED

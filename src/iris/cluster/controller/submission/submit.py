"""Accepts new jobs. The method `Submissions.submit` contains the sequence of steps."""

from __future__ import annotations

from iris.cluster.controller.hangs.hang_watch import check_hang_action
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.logs.keeper import LogKeeper
from iris.cluster.controller.removal.job_removal import JobRemoval
from iris.cluster.controller.removal.stored_bytes import StoredBytes
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.submission.dependencies import unknown_dependency
from iris.cluster.controller.submission.headroom import Headroom
from iris.cluster.controller.submission.names import claim_name, find_repeated
from iris.cluster.controller.submission.parents import check_parent, inherit_environment
from iris.cluster.controller.submission.quotas import QuotaUse
from iris.cluster.controller.submission.request import LaunchJobRequest, make_job
from iris.cluster.controller.submission.validate import validate
from iris.cluster.controller.submission.workspaces import Workspaces
from iris.cluster.controller.tracing.job_spans import JobTrace
from iris.cluster.types import TOKEN_VARIABLE
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms, stamp


class Submissions:
    """Accepts or refuses the submissions of clients and tasks.

    Args:
        jobs: The table of all jobs of the cluster.
        workspaces: The object that checks and stores workspaces.
        quotas: The object that counts the jobs and tasks of each user.
        headroom: The object that refuses new jobs when too little disk space or too few file descriptors are left.
        log_keeper: The log keeper, which keeps the logs of the tasks; None if no logs are kept.
        saver: The object that saves the new jobs.
        stored_bytes: The object that limits the bytes that are stored for each user.
        removal: The object that knows the numbers of the gangs of removed jobs.
        is_traced: Whether the controller records the trace spans of jobs.
        watch_hang_s: After how many seconds a job seems to hang, if the job sets no time. With 0, such jobs are not
            watched.
    """

    def __init__(
        self,
        jobs: JobTable,
        workspaces: Workspaces,
        quotas: QuotaUse,
        headroom: Headroom,
        log_keeper: LogKeeper | None,
        saver: Saver,
        stored_bytes: StoredBytes,
        removal: JobRemoval,
        *,
        is_traced: bool = False,
        watch_hang_s: int = 0,
    ) -> None:
        self._jobs = jobs
        self._workspaces = workspaces
        self._quotas = quotas
        self._headroom = headroom
        self._log_keeper = log_keeper
        self._saver = saver
        self._stored_bytes = stored_bytes
        self._removal = removal
        self._is_traced = is_traced
        self._watch_hang_s = watch_hang_s

    async def submit(self, request: LaunchJobRequest, owner: str = "") -> str:
        """Accept a job, and return its id once the job is saved.

        1. Validate the request, and check its workspace and the jobs for which it waits.
        2. Claim the name. No `await` may occur between step 2 and step 4, because another submission could claim the
           same name during an `await`. Therefore the parent is read before step 2.
        3. Make the job, if its parent, its owner's quota and the headroom allow it.
        4. Save the job.
        5. Once the job is saved, the controller carries out the job's instructions, which add its gangs to the queue. A
           job that waits for other jobs has no instructions yet.

        Args:
            request: The submission. This method changes the request.
            owner: The name in the caller's token. The name becomes the job's owner, unless the job has a parent. A
                child job has the owner of its parent.

        Raises:
            IrisError: The job is refused, or cannot be saved. The functions of the steps list their errors.
        """
        # The job's environment must not contain the client's token, because the token is secret. Each task gets a
        # separate token.
        request.environment.env_vars.pop(TOKEN_VARIABLE, None)
        validate(request)
        unknown = await unknown_dependency(request, self._jobs)
        with self._workspaces.reserved(request):
            workspace = await self._workspaces.check(request)
            parent = await self._jobs.find(request.parent_job_id) if request.parent_job_id else None
            known = await claim_name(request, parent, self._jobs, self._saver)
            if known is not None:
                return known.job_id
            if unknown is not None:
                raise unknown
            owner = owner if parent is None else parent.job.owner
            with self._stored_bytes.reserved(owner, request, workspace):
                record = self._make_record(request, parent, owner)
                await self._saver.add_job(record, workspace, record.job.submit(), request.inputs_blob)
            return record.job_id

    async def find_repeated(self, request: LaunchJobRequest) -> str | None:
        """Return the id of the job that an earlier request with the same submission id has created, or None."""
        known = await find_repeated(request, self._jobs, self._saver)
        return None if known is None else known.job_id

    def _make_record(self, request: LaunchJobRequest, parent: JobRecord | None, owner: str) -> JobRecord:
        check_hang_action(request, self._watch_hang_s)
        job = make_job(request, now_ms())
        job.submitted_stamp = stamp()
        job.rounds = self._removal.first_round
        if parent is not None:
            check_parent(request, parent.job)
            inherit_environment(request, parent.launch)
        job.owner = owner
        self._quotas.check(owner, len(job.tasks))
        self._headroom.check_job(request.ByteSize())
        launch = LaunchJobRequest()
        launch.CopyFrom(request)
        # The workspace is stored separately from the job, because several jobs may have the same workspace.
        launch.ClearField("bundle_blob")
        # The inputs are stored separately, because each worker fetches only the inputs of its tasks.
        launch.ClearField("inputs_blob")
        launch.is_traced = self._is_traced and JobTrace(job.job_id, job.submitted_at_ms, launch).is_sampled
        if self._log_keeper is not None:
            self._log_keeper.job_launched(job.job_id, len(job.tasks))
        self._quotas.add(owner, len(job.tasks))
        facts = [cluster_pb2.TaskStatus() for _ in job.tasks]
        return JobRecord(job, launch, facts, number=self._saver.next_number())

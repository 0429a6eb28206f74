"""Submits a stored job again. Secrets in the submission do not leave the controller."""

from __future__ import annotations

from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.request import LaunchJobRequest
from iris.cluster.controller.submission.submit import Submissions
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, quoted
from iris.reasons import ErrorReason
from iris.rpc.cluster_pb2 import Controller


class Resubmissions:
    """Answers the calls about the submissions of stored jobs.

    Args:
        store: The database, which contains the submissions.
        reading: The object that reads from the database, in its own threads.
        submissions: The object that accepts the new jobs.
    """

    def __init__(self, store: Store, reading: StoredJobs, submissions: Submissions) -> None:
        self._store = store
        self._reading = reading
        self._submissions = submissions

    async def describe(self, job_id: str) -> Controller.GetSubmissionResponse:
        """Return the submission of a job, without the values of variables, the callable and the workspace.

        Raises:
            NotFoundError: There is no such job.
        """
        launch, has_entry_point = await self._stored(job_id)
        problem = ""
        if not has_entry_point:
            problem = _no_entry_point(job_id)
        elif await self._lacks_workspace(launch):
            problem = _no_workspace(job_id)
        answer = Controller.GetSubmissionResponse(
            submission=launch, callable_bytes=len(launch.serialized_entrypoint), problem=problem
        )
        answer.submission.ClearField("serialized_entrypoint")
        variables = answer.submission.environment.env_vars
        for name in list(variables):
            variables[name] = ""
        return answer

    async def resubmit(self, request: Controller.ResubmitJobRequest, owner: str) -> str:
        """Submit a job again, and return the id of the new job.

        Args:
            request: The request to submit the job again. This method changes the request.
            owner: The owner of the new job.

        Raises:
            NotFoundError: There is no such job.
            FailedPreconditionError: A needed part of the stored submission was removed.
            InvalidArgumentError: The earlier job does not have one of the variables to keep, or the new submission is
                invalid.
            IrisError: The job was refused for another reason (see `Submissions.submit`).
        """
        submission = request.submission
        # The client may have repeated a request whose first answer was lost. Then the new job exists, although the
        # earlier job or a needed part of its submission may have been removed meanwhile.
        known = await self._submissions.find_repeated(submission)
        if known is not None:
            return known
        stored, has_entry_point = await self._stored(request.job_id)
        _add_variables(submission, stored, request, has_entry_point)
        if not submission.command and not submission.serialized_entrypoint:
            if not has_entry_point:
                raise FailedPreconditionError(_no_entry_point(request.job_id))
            submission.serialized_entrypoint = stored.serialized_entrypoint
            submission.pickled_by = stored.pickled_by
        if not submission.bundle_blob and await self._lacks_workspace(submission):
            raise FailedPreconditionError(_no_workspace(request.job_id))
        return await self._submissions.submit(submission, owner)

    async def _lacks_workspace(self, launch: LaunchJobRequest) -> bool:
        return bool(launch.bundle_hash) and not await self._reading.run(self._store.has_bundle, launch.bundle_hash)

    async def _stored(self, job_id: str) -> tuple[LaunchJobRequest, bool]:
        found = await self._reading.run(self._store.submission, job_id)
        if found is None:
            raise NotFoundError(
                f"no job named {quoted(job_id)}", reason=ErrorReason.JOB_NOT_FOUND, metadata={"job_id": job_id}
            )
        return found


def _add_variables(
    submission: LaunchJobRequest,
    stored: LaunchJobRequest,
    request: Controller.ResubmitJobRequest,
    has_entry_point: bool,
) -> None:
    """Add the stored values of the environment variables that the new job keeps from the earlier job."""
    if request.kept_variables and not has_entry_point:
        raise FailedPreconditionError(_no_entry_point(request.job_id))
    known = stored.environment.env_vars
    for name in request.kept_variables:
        if name not in known:
            raise InvalidArgumentError(f"kept_variables must name variables of the earlier job, got {quoted(name)}")
        submission.environment.env_vars[name] = known[name]


def _no_entry_point(job_id: str) -> str:
    return (
        f"the command or callable of job {quoted(job_id)} is no longer stored, because later jobs of its owner have"
        " stored more bytes than one user may store ('iris up --max-bytes-per-user' sets the limit): submit the job as"
        " you did the first time"
    )


def _no_workspace(job_id: str) -> str:
    return f"the workspace of job {quoted(job_id)} is no longer stored: submit the job from its folder again"

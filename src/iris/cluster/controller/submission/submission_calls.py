"""Serves the calls of ControllerService that submit jobs."""

from __future__ import annotations

from typing import Any

from iris.cluster.controller.submission.resubmission import Resubmissions
from iris.cluster.controller.submission.submit import Submissions
from iris.rpc.auth.caller import caller
from iris.rpc.cluster_pb2 import Controller


class SubmissionCalls:
    """The calls of `ControllerService` that submit jobs. The file cluster.proto documents each call.

    Args:
        submissions: Accepts new jobs.
        resubmissions: Submits stored jobs again.
    """

    def __init__(self, submissions: Submissions, resubmissions: Resubmissions) -> None:
        self._submissions = submissions
        self._resubmissions = resubmissions

    async def launch_job(self, request: Controller.LaunchJobRequest, ctx: Any) -> Controller.LaunchJobResponse:
        """Submit a job."""
        job_id = await self._submissions.submit(request, owner=caller().name)
        return Controller.LaunchJobResponse(job_id=job_id)

    async def get_submission(
        self, request: Controller.GetSubmissionRequest, ctx: Any
    ) -> Controller.GetSubmissionResponse:
        """Return the submission of a job, without secrets."""
        return await self._resubmissions.describe(request.job_id)

    async def resubmit_job(self, request: Controller.ResubmitJobRequest, ctx: Any) -> Controller.LaunchJobResponse:
        """Submit a job again."""
        job_id = await self._resubmissions.resubmit(request, owner=caller().name)
        return Controller.LaunchJobResponse(job_id=job_id)

"""Serves the calls of ControllerService that submit jobs, and that return workspaces and inputs to workers."""

from __future__ import annotations

from typing import Any

from iris.cluster.controller.submission.resubmission import Resubmissions
from iris.cluster.controller.submission.submit import Submissions
from iris.cluster.controller.submission.workspaces import Workspaces
from iris.rpc.auth.caller import caller
from iris.rpc.cluster_pb2 import Controller


class SubmissionCalls:
    """The calls of `ControllerService` that submit jobs, and the calls by which workers fetch workspaces and inputs.
    The file cluster.proto documents each call.

    Args:
        submissions: The object that accepts new jobs.
        resubmissions: The object that submits stored jobs again.
        workspaces: The stored workspaces and inputs of jobs, which workers fetch.
    """

    def __init__(self, submissions: Submissions, resubmissions: Resubmissions, workspaces: Workspaces) -> None:
        self._submissions = submissions
        self._workspaces = workspaces
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

    async def fetch_bundle(self, request: Controller.FetchBundleRequest, ctx: Any) -> Controller.FetchBundleResponse:
        """Return a workspace."""
        return Controller.FetchBundleResponse(bundle_blob=await self._workspaces.fetch(request.bundle_hash))

    async def fetch_input(self, request: Controller.FetchInputRequest, ctx: Any) -> Controller.FetchInputResponse:
        """Return the inputs of one task."""
        item = await self._workspaces.fetch_input(request.inputs_hash, request.task_index)
        return Controller.FetchInputResponse(item=item)

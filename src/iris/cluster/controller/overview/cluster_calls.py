"""Answers the calls of the service that describe and check the cluster."""

from __future__ import annotations

from typing import Any

from iris.cluster.controller.auth.token_calls import identity_of
from iris.cluster.controller.overview.cluster_check import ClusterCheck
from iris.rpc.auth.caller import caller
from iris.rpc.cluster_pb2 import Controller
from iris.system.process_identity import own_place
from iris.versions import VERSION


class ClusterCalls:
    """The calls that describe and check the cluster, a part of `ControllerService`.

    Args:
        engine_name: The name of the engine: local, ray or slurm.
        check: The object that checks the cluster.
    """

    def __init__(self, engine_name: str, check: ClusterCheck) -> None:
        self._engine_name = engine_name
        self._check = check

    async def describe_cluster(
        self, request: Controller.DescribeClusterRequest, ctx: Any
    ) -> Controller.DescribeClusterResponse:
        """Return the cluster's engine, where the controller runs, and who made this call."""
        return Controller.DescribeClusterResponse(
            engine=self._engine_name,
            place=own_place(),
            version=VERSION,
            caller=identity_of(caller()),
        )

    async def check_cluster(self, request: Controller.CheckClusterRequest, ctx: Any) -> Controller.CheckClusterResponse:
        """Check the controller, its engine and each worker."""
        return await self._check.check()

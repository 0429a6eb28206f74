"""Prepares an attempt: its directory, ports, hosts file, workspace and entrypoint."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from iris.cluster.files.confined_tree import ConfinedTree
from iris.cluster.memory_profile import PROFILE_DIRECTORY
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.ports import PortReservations
from iris.cluster.worker.attempt.unpack_workspace import copy_workspace, unpack_workspace
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.cluster.worker.paths import WorkerDir
from iris.cluster.worker.process import start_callable
from iris.errors import DeadlineExceededError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.system.backoff import Backoff
from iris.system.clock import now_ms

# The timeout of one try to fetch a workspace or the inputs of a task.
_FETCH_TIMEOUT_S = 300.0
# The first and the longest pause in seconds between two tries to fetch a workspace or the inputs of a task.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class AttemptPreparer:
    """Prepares the attempts of one worker.

    Args:
        directory: The worker directory.
        controller: The connection to the controller, from which workspaces and inputs are fetched.
        ports: The object that reserves ports.
    """

    def __init__(self, directory: WorkerDir, controller: ControllerConnection, ports: PortReservations) -> None:
        self._directory = directory
        self._controller = controller
        self._ports = ports
        self._unpacking: dict[str, asyncio.Lock] = {}

    async def prepare(self, attempt: Attempt, entrypoint: bytes, hosts: str) -> list[str]:
        """Prepare an attempt and return the command of its process.

        Args:
            attempt: The record of the attempt on this worker.
            entrypoint: The pickled callable; ignored if the task runs a command.
            hosts: The hosts of the gang's tasks, one per line; empty if the request contains no hosts.

        Raises:
            IrisError: The workspace or the inputs cannot be fetched or unpacked, an output path is invalid, or no port
                is free.
            OSError: The directory of the attempt cannot be written.
        """
        request, directory = attempt.request, attempt.directory
        if hosts:
            # A task may change its hosts file. Therefore each attempt gets a copy of the file instead of a hard link.
            directory.hosts.write_text(hosts, encoding="utf-8")
        for name in request.ports:
            last = request.last_ports.get(name.lower(), 0)
            attempt.ports[name.lower()] = self._ports.reserve_again(last) or self._ports.reserve()
        if request.bundle_hash:
            await self._provide_workspace(attempt)
        else:
            directory.work.mkdir()
        if request.outputs:
            with ConfinedTree(attempt.working_directory, "the working directory") as tree:
                for path in request.outputs:
                    tree.make_directory(path)
        item = await self._fetch_input(attempt) if request.inputs_hash else b""
        if request.command:
            command = list(request.command)
            if request.inputs_hash:
                attempt.input_text = item.decode()
                command = [word.replace("{}", attempt.input_text) for word in command]
        else:
            directory.entrypoint.write_bytes(entrypoint)
            paths = [str(directory.entrypoint), str(directory.result), request.pickled_by]
            if request.inputs_hash:
                directory.inputs.write_bytes(item)
                paths.append(str(directory.inputs))
            # The program is started by its path and with -P, so that no file of the workspace can hide a module that
            # the program needs to start.
            command = [sys.executable, "-P", start_callable.__file__, *paths]
        if request.profile_memory:
            (directory.profiled / PROFILE_DIRECTORY).mkdir(parents=True)
        attempt.build_finished_ms = now_ms()
        return command

    def release_ports(self, attempt: Attempt) -> None:
        """Release the ports of an attempt that has ended."""
        for port in attempt.ports.values():
            self._ports.release(port)
        if attempt.request.rendezvous and not attempt.request.task_index:
            self._ports.release(attempt.request.master_port)

    def reserve_rendezvous_port(self) -> int:
        """Reserve a port at all addresses of the machine, because frameworks listen at all addresses."""
        return self._ports.reserve(everywhere=True)

    async def _provide_workspace(self, attempt: Attempt) -> None:
        bundle_hash = attempt.request.bundle_hash
        bundle = self._directory.bundle(bundle_hash)
        async with self._unpacking.setdefault(bundle_hash, asyncio.Lock()):
            attempt.from_cache = bundle.is_dir()
            if not attempt.from_cache:
                attempt.write_build_line(f"fetching workspace {bundle_hash[:12]}")
                blob = await self._fetch_workspace(attempt)
                await asyncio.to_thread(unpack_workspace, blob, bundle_hash, bundle)
        attempt.write_build_line(f"copying workspace {bundle_hash[:12]}")
        await asyncio.to_thread(copy_workspace, bundle, attempt.directory.work)

    async def _fetch_workspace(self, attempt: Attempt) -> bytes:
        """Fetch the attempt's workspace from the controller."""
        request = cluster_pb2.Controller.FetchBundleRequest(bundle_hash=attempt.request.bundle_hash)
        answer: cluster_pb2.Controller.FetchBundleResponse
        answer = await self._fetch(attempt, self._controller.stub.fetch_bundle, request)
        return answer.bundle_blob

    async def _fetch_input(self, attempt: Attempt) -> bytes:
        """Fetch the inputs of the attempt's task from the controller."""
        request = cluster_pb2.Controller.FetchInputRequest(
            inputs_hash=attempt.request.inputs_hash, task_index=attempt.seen_task_index
        )
        answer: cluster_pb2.Controller.FetchInputResponse
        answer = await self._fetch(attempt, self._controller.stub.fetch_input, request)
        return answer.item

    async def _fetch(self, attempt: Attempt, method: Any, request: Any) -> Any:
        """Call the controller to fetch data that an attempt needs, and return the answer.

        The call for the data is repeated until the controller answers, because an attempt must not fail when its
        controller does not answer. If the attempt is being stopped, a failed call is not repeated.
        """
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while True:
            try:
                return await call_async(method, request, self._controller.peer, timeout_s=_FETCH_TIMEOUT_S)
            except (UnavailableError, DeadlineExceededError) as error:
                if attempt.stop_grace_s is not None:
                    raise
                attempt.write_build_line(f"{error}; trying again")
                await asyncio.sleep(backoff.next_s())

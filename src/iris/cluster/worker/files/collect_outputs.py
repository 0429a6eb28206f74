"""Sends the outputs of an ended attempt to the controller, before the end of the attempt is reported.

The attempt counts as running until its outputs are stored, refused, or found to be unreadable. Therefore everyone who
learns of the end finds the outputs, and no engine ends the worker of a slot before the outputs are stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from iris.cluster.files.confined_tree import ConfinedTree
from iris.cluster.files.output_pack import SIZE_REASONS, OutputPack, OutputsChangedError
from iris.cluster.files.transfer_sizes import PART_BYTES
from iris.cluster.memory_profile import PROFILE_DIRECTORY
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.counts import counted
from iris.errors import DeadlineExceededError, IrisError, ResourceExhaustedError, UnavailableError
from iris.event_log import log_event
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.system.backoff import Backoff

_CALL_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
# How many times the worker goes back to an earlier position of the outputs, for example to the beginning after a wrong
# hash, before it gives up.
_MAX_RESTARTS = 3
_SKIPPED = "pipes, sockets or other special files were"
_log = logging.getLogger(__name__)
Request = cluster_pb2.Controller.StoreOutputsRequest
Response = cluster_pb2.Controller.StoreOutputsResponse


class _NotSentError(Exception):
    """An error: the controller has refused a call, and a retry has no use. The error text comes from the controller."""


class OutputCollector:
    """Collects the outputs of the attempts of one worker.

    Args:
        controller: The connection to the controller.
        worker_id: The id of this worker.
        incarnation: The random id of this worker process.
    """

    def __init__(self, controller: ControllerConnection, worker_id: str, incarnation: str) -> None:
        self._controller = controller
        self._worker_id = worker_id
        self._incarnation = incarnation

    async def collect(self, attempt: Attempt) -> None:
        """Send the outputs of an attempt to the controller. If the outputs cannot be stored, write the reason into
        `attempt.output_warning` and into the log, and send it to the controller.

        The calls that send outputs are repeated until the controller answers, because the outputs must not be lost when
        the controller is restarted. A cancellation ends the collection.
        """
        try:
            pack, refused = await self._pack_and_send(attempt)
            text = f"{counted(pack.num_files, 'file')}, {counted(pack.contents_bytes, 'byte')}"
            if refused:
                self._give_up(attempt, refused)
                return
            skipped = (
                f"; {counted(pack.skipped, 'pipe, socket or other special file was', _SKIPPED)} left out"
                if pack.skipped
                else ""
            )
            attempt.write_build_line(f"stored the outputs: {text}{skipped}")
            log_event(_log, "outputs.stored", task_id=attempt.request.task_id, attempt_id=attempt.request.attempt_id)
        except _NotSentError as error:
            self._give_up(attempt, f"the controller does not accept them: {error}")
        except ResourceExhaustedError as error:
            await self._report(attempt, cluster_pb2.OUTPUT_REASON_TOO_MANY_FILES, str(error))
        except (IrisError, OSError, OutputsChangedError) as error:
            await self._report(attempt, cluster_pb2.OUTPUT_REASON_UNREADABLE, f"the outputs cannot be read: {error}")
        except Exception as error:  # noqa: BLE001 - The end of the attempt must be reported after any error.
            _log.exception("collecting the outputs of %s", attempt.key)
            self._give_up(attempt, f"the worker could not collect the outputs: {error}")

    async def _pack_and_send(self, attempt: Attempt) -> tuple[OutputPack, str]:
        """Send the outputs of an attempt with its memory profile. If they are too large together, send the outputs
        without the profile, because a large profile must not cost a job its outputs.

        Returns:
            The outputs as they were sent last, and the reason why the controller refuses these outputs; an empty text
                if the controller has stored them.
        """
        request = attempt.request
        with contextlib.ExitStack() as opened:
            tree = await asyncio.to_thread(ConfinedTree, attempt.working_directory, "the working directory")
            outputs = opened.enter_context(tree), request.outputs
            if not request.profile_memory:
                pack = await asyncio.to_thread(OutputPack, outputs)
                return pack, (await self._send(attempt, pack)).refused
            profile = opened.enter_context(ConfinedTree(attempt.directory.profiled)), [PROFILE_DIRECTORY]
            pack = await asyncio.to_thread(OutputPack, outputs, profile)
            together = await self._send(attempt, pack)
            if together.reason not in SIZE_REASONS or not request.outputs:
                return pack, together.refused
            pack = await asyncio.to_thread(OutputPack, outputs)
            refused = (await self._send(attempt, pack)).refused
            if not refused:
                attempt.output_warning = (
                    f"the outputs are stored without the memory profile: with it, {together.refused}"
                )
                attempt.write_build_line(attempt.output_warning)
            return pack, refused

    async def _send(self, attempt: Attempt, pack: OutputPack) -> Response:
        """Send packed outputs to the controller. Return the controller's last answer. If the controller refuses the
        outputs, the answer contains the reason.
        """
        position, restarts = 0, 0
        answer = await self._call(self._request(attempt, total_bytes=pack.size))
        while not answer.refused:
            if answer.position < position:
                restarts += 1
                if restarts > _MAX_RESTARTS:
                    return Response(refused="the controller did not receive the outputs intact")
            position = answer.position
            data = await asyncio.to_thread(pack.read, position, PART_BYTES)
            request = self._request(attempt, total_bytes=pack.size, position=position, data=data)
            if position + len(data) == pack.size:
                request.sha256 = await asyncio.to_thread(pack.sha256)
                request.index_bytes = pack.index_bytes
            failpoint("outputs.before")
            answer = await self._call(request)
            position += len(data)
            if not answer.refused and request.sha256 and answer.position == pack.size:
                break
        return answer

    async def _report(self, attempt: Attempt, reason: cluster_pb2.OutputReason, problem: str) -> None:
        """Send the reason why the outputs cannot be collected to the controller, which shows the reason to users."""
        self._give_up(attempt, problem)
        # The report of the attempt's end also contains the reason, so a refused call is ignored.
        with contextlib.suppress(_NotSentError):
            await self._call(self._request(attempt, reason=reason, problem=problem))

    def _give_up(self, attempt: Attempt, why: str) -> None:
        attempt.output_warning = f"the outputs are not stored: {why}"
        attempt.write_build_line(attempt.output_warning)
        log_event(
            _log,
            "outputs.refused",
            level=logging.WARNING,
            task_id=attempt.request.task_id,
            attempt_id=attempt.request.attempt_id,
            error=why,
        )

    def _request(self, attempt: Attempt, **fields: object) -> Request:
        request = attempt.request
        return Request(
            worker_id=self._worker_id,
            task_id=request.task_id,
            attempt_id=request.attempt_id,
            incarnation=self._incarnation,
            job_submitted_at_ms=request.job_submitted_at_ms,
            **fields,  # type: ignore[arg-type] # The callers pass fields of the message.
        )

    async def _call(self, request: Request) -> Response:
        """Send a part to the controller, again and again until the controller answers.

        Raises:
            _NotSentError: The controller refuses the call.
        """
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while True:
            try:
                stub, peer = self._controller.stub, self._controller.peer
                answer: Response = await call_async(stub.store_outputs, request, peer, timeout_s=_CALL_S)
                return answer
            except (UnavailableError, DeadlineExceededError) as error:
                _log.warning("sending the outputs of %s: %s; trying again", request.task_id, error)
                await asyncio.sleep(backoff.next_s())
            except IrisError as error:
                raise _NotSentError(str(error)) from error

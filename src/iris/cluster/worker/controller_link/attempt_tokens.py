"""Checks whether the attempt of a task's token still runs. After the end of the attempt, the token is invalid.

The worker knows its own attempts. If the attempt belongs to another worker, this worker sends the token to the
controller at the first call. While the token is in use, the worker repeats this check every `CHECK_S` seconds. If the
controller does not answer, its last answer stays valid for the length of a lease. For the same time, a worker may run
attempts without contact to the controller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from iris.cluster.lease_terms import format_span
from iris.cluster.worker.supervision.reaper import clock_s
from iris.errors import IrisError, UnauthenticatedError, UnavailableError
from iris.rpc.auth.authenticate import AuthenticatedStreams
from iris.rpc.auth.caller import TASK, Caller

CHECK_S = 15.0
# Identifies an attempt by its job id, its task index, its attempt id, and the time when its job was submitted.
_Key = tuple[str, int, int, int]


@dataclass(slots=True)
class _Verdict:
    """The controller's last answer about an attempt.

    Attributes:
        token: The token that a caller showed last.
        refusal: Why the token is invalid; empty while its attempt runs.
        confirmed_s: When the worker sent its last successful check, by `clock_s`.
        asked_s: When the worker sent its last check. The controller may not have answered.
        in_use: Whether a caller has used the token since the last round of checks.
    """

    token: str
    refusal: str
    confirmed_s: float
    asked_s: float
    in_use: bool = True


class AttemptTokens:
    """Keeps the task tokens that callers have shown to this worker, and checks whether the tokens' attempts still run.

    Args:
        is_running: A function that returns whether an attempt (job id, task index, attempt id, time of the job's
            submission) runs on this worker; None if the worker does not know the attempt.
        ask: A function that sends a token to the controller for a check, and raises UnauthenticatedError if the token
            is invalid.
        streams: The object that knows the open streams of this worker.
        answer_valid_s: A function that returns how many seconds the controller's last answer stays valid while it does
            not answer.
        check_s: The seconds between two checks of the same attempt.
    """

    def __init__(
        self,
        is_running: Callable[[str, int, int, int], bool | None],
        ask: Callable[[Caller, str], Awaitable[object]],
        streams: AuthenticatedStreams,
        answer_valid_s: Callable[[], float],
        check_s: float = CHECK_S,
    ) -> None:
        self._is_running = is_running
        self._ask = ask
        self._streams = streams
        self._answer_valid_s = answer_valid_s
        self._check_s = check_s
        self._verdicts: dict[_Key, _Verdict] = {}
        self._asking: dict[_Key, asyncio.Task[None]] = {}

    async def confirm(self, known: Caller, token: str) -> None:
        """Check the token of a caller, if necessary with a call to the controller.

        Raises:
            UnauthenticatedError: The token's attempt has ended.
            UnavailableError: The controller does not answer, so it is unknown whether the attempt runs.
        """
        if self._is_running(*_key(known)) is None:
            verdict = self._verdicts.get(_key(known))
            if verdict is None or clock_s() - verdict.asked_s >= self._check_s:
                await self._ask_once(known, token)
            if (verdict := self._verdicts.get(_key(known))) is not None:
                verdict.in_use = True
        self.check(known)

    def check(self, known: Caller) -> None:
        """Check a token without a call to the controller. Raise the same errors as `confirm`."""
        key = _key(known)
        runs_here = self._is_running(*key)
        if runs_here:
            return
        if runs_here is False:
            raise UnauthenticatedError(f"{_name(known)} has ended, so its token is no longer valid")
        verdict = self._verdicts.get(key)
        if verdict is None:
            raise UnavailableError(f"this worker does not know whether {_name(known)} is still running")
        if verdict.refusal:
            raise UnauthenticatedError(verdict.refusal)
        if clock_s() - verdict.confirmed_s > self._answer_valid_s():
            raise UnavailableError(
                f"it is unknown whether {_name(known)} is still running: the controller has not"
                f" answered for {format_span(self._answer_valid_s())}"
            )

    def ended(self, job_id: str, task_index: int, attempt_id: int) -> None:
        """End the streams that were opened with the token of an attempt that has ended on this worker."""
        self._streams.recheck(lambda known: known.role == TASK and _key(known)[:3] == (job_id, task_index, attempt_id))

    async def run(self) -> None:
        """Check all tokens in use repeatedly until the worker ends, and end the streams of invalid tokens."""
        while True:
            await asyncio.sleep(self._check_s)
            open_streams = {_key(known): known for known in self._streams.callers() if known.role == TASK}
            for key, verdict in list(self._verdicts.items()):
                if not verdict.in_use and key not in open_streams:
                    del self._verdicts[key]
                verdict.in_use = False
            questions = [
                self._ask_once(known, self._verdicts[key].token)
                for key, known in open_streams.items()
                if key in self._verdicts
            ]
            await asyncio.gather(*questions, return_exceptions=True)
            self._streams.recheck(lambda known: known.role == TASK and not self._is_good(known))

    def _is_good(self, known: Caller) -> bool:
        try:
            self.check(known)
        except IrisError:
            return False
        return True

    async def _ask_once(self, known: Caller, token: str) -> None:
        """Check an attempt with a call to the controller. Concurrent calls of this method share one call to the
        controller.
        """
        key = _key(known)
        if key not in self._asking:
            question = self._asking[key] = asyncio.create_task(self._ask_controller(known, token))
            question.add_done_callback(lambda done: self._answered(key, done))
        await asyncio.shield(self._asking[key])

    def _answered(self, key: _Key, question: asyncio.Task[None]) -> None:
        del self._asking[key]
        if not question.cancelled():
            # Reading the exception prevents asyncio from logging the error if no caller waits any more. Callers that
            # still wait get the error.
            question.exception()

    async def _ask_controller(self, known: Caller, token: str) -> None:
        key = _key(known)
        before = self._verdicts.get(key)
        asked_s = clock_s()
        try:
            await self._ask(known, token)
            self._verdicts[key] = _Verdict(token, "", asked_s, asked_s)
        except UnauthenticatedError as error:
            self._verdicts[key] = _Verdict(token, str(error), asked_s, asked_s)
        except IrisError as error:
            if before is None:
                raise UnavailableError(
                    f"this worker does not know whether {_name(known)} is still running, and the"
                    f" controller does not answer: {error}"
                ) from error
            before.asked_s = asked_s


def _key(known: Caller) -> _Key:
    return known.job_id, known.task_index, known.attempt_id, known.job_submitted_at_ms


def _name(known: Caller) -> str:
    return f"attempt {known.attempt_id} of task {known.task_index} of job {known.job_id!r}"

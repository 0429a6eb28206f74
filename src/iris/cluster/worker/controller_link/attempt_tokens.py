"""Whether the attempts go on whose tokens are shown to this worker: a task's token ends with its attempt.

Of an attempt that runs here, or ran here, the worker knows that itself, at once. About any other it asks the
controller, by showing the token there: at the first call, then every `CHECK_S` for as long as the token is in use.
While the controller does not answer, what it said last holds for the length of a lease, for which workers live without
it, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from iris.cluster.lease_terms import format_span
from iris.cluster.worker.supervision.reaper import clock_s
from iris.errors import IrisError, UnauthenticatedError, UnavailableError
from iris.rpc.auth.authenticate import Doors
from iris.rpc.auth.caller import TASK, Caller

CHECK_S = 15.0
_Key = tuple[str, int, int]  # job, task, attempt


@dataclass(slots=True)
class _Verdict:
    """What the controller has said of an attempt.

    Attributes:
        token: The token that was shown last.
        refusal: Why the token is no good; empty while its attempt goes on.
        confirmed_s: When the controller was asked that said last that the attempt goes on, by `clock_s`.
        asked_s: When it was asked last, whether or not it answered.
        in_use: Whether the token was shown since the last round of questions.
    """

    token: str
    refusal: str
    confirmed_s: float
    asked_s: float
    in_use: bool = True


class AttemptTokens:
    """The tokens of tasks, at a worker.

    Args:
        goes_on: Whether an attempt (job, task, attempt) runs on this worker; None: it is not known here.
        ask: Shows a token to the controller. UnauthenticatedError when it is no good there.
        doors: The streams that are open at this worker.
        hold_s: Seconds for which the controller's last word holds while it does not answer.
        check_s: Seconds between two questions about the same attempt.
    """

    def __init__(
        self,
        goes_on: Callable[[str, int, int], bool | None],
        ask: Callable[[Caller, str], Awaitable[object]],
        doors: Doors,
        hold_s: Callable[[], float],
        check_s: float = CHECK_S,
    ) -> None:
        self._goes_on = goes_on
        self._ask = ask
        self._doors = doors
        self._hold_s = hold_s
        self._check_s = check_s
        self._verdicts: dict[_Key, _Verdict] = {}
        self._asking: dict[_Key, asyncio.Task[None]] = {}

    async def confirm(self, known: Caller, token: str) -> None:
        """Return when a token that a call shows is good.

        Raises:
            UnauthenticatedError: Its attempt has ended.
            UnavailableError: The controller does not say whether its attempt goes on.
        """
        if self._goes_on(*_key(known)) is None:
            verdict = self._verdicts.get(_key(known))
            if verdict is None or clock_s() - verdict.asked_s >= self._check_s:
                await self._ask_again(known, token)
            if (verdict := self._verdicts.get(_key(known))) is not None:
                verdict.in_use = True
        self.check(known)

    def check(self, known: Caller) -> None:
        """Raise when what is known by now speaks against a token that was good."""
        key = _key(known)
        runs_here = self._goes_on(*key)
        if runs_here:
            return
        if runs_here is False:
            raise UnauthenticatedError(f"{_name(known)}, which this token was given to, has ended")
        verdict = self._verdicts.get(key)
        if verdict is None:
            raise UnavailableError(f"it is not known here whether {_name(known)}, which shows its token, goes on")
        if verdict.refusal:
            raise UnauthenticatedError(verdict.refusal)
        if clock_s() - verdict.confirmed_s > self._hold_s():
            raise UnavailableError(
                f"it is not known whether {_name(known)}, which shows its token, goes on: the controller has not"
                f" answered for {format_span(self._hold_s())}"
            )

    def ended(self, job_id: str, task_index: int, attempt_id: int) -> None:
        """An attempt has ended here: the streams that its token has opened end."""
        self._doors.look_again(lambda known: known.role == TASK and _key(known) == (job_id, task_index, attempt_id))

    async def run(self) -> None:
        """Ask again for all tokens in use, for as long as the worker lives, and end the streams of those that ended."""
        while True:
            await asyncio.sleep(self._check_s)
            open_streams = {_key(known): known for known in self._doors.callers() if known.role == TASK}
            for key, verdict in list(self._verdicts.items()):
                if not verdict.in_use and key not in open_streams:
                    del self._verdicts[key]
                verdict.in_use = False
            questions = [
                self._ask_again(known, self._verdicts[key].token)
                for key, known in open_streams.items()
                if key in self._verdicts
            ]
            await asyncio.gather(*questions, return_exceptions=True)
            self._doors.look_again(lambda known: known.role == TASK and not self._is_good(known))

    def _is_good(self, known: Caller) -> bool:
        try:
            self.check(known)
        except IrisError:
            return False
        return True

    async def _ask_again(self, known: Caller, token: str) -> None:
        """One question at a time for an attempt; all calls that wait for the answer get it."""
        key = _key(known)
        if key not in self._asking:
            question = self._asking[key] = asyncio.create_task(self._put_question(known, token))
            question.add_done_callback(lambda done: self._answered(key, done))
        await asyncio.shield(self._asking[key])

    def _answered(self, key: _Key, question: asyncio.Task[None]) -> None:
        del self._asking[key]
        if not question.cancelled():
            question.exception()  # whoever asked has it; who has left does not want it

    async def _put_question(self, known: Caller, token: str) -> None:
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
                    f"it is not known here whether {_name(known)}, which shows its token, goes on, and the controller"
                    f" does not say: {error}"
                ) from error
            before.asked_s = asked_s


def _key(known: Caller) -> _Key:
    return known.job_id, known.task_index, known.attempt_id


def _name(known: Caller) -> str:
    return f"attempt {known.attempt_id} of task {known.task_index} of job {known.job_id!r}"

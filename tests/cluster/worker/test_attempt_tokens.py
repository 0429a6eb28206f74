"""A worker accepts the token of a task as long as the attempt runs, on this worker or on another one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest

from iris.cluster.worker.controller_link.attempt_tokens import AttemptTokens
from iris.errors import UnauthenticatedError, UnavailableError
from iris.rpc.auth.authenticate import AuthenticatedStreams
from iris.rpc.auth.caller import TASK, Caller

FOREIGN = Caller("a/task-0", TASK, "1", math.inf, job_id="a", task_index=0, attempt_id=0)


class World:
    """A worker's view: what runs here, and a controller that answers as the test says.

    Attributes:
        here: Of attempts that this worker has: whether they go on.
        says: What the controller says of every other attempt; an error is raised.
        questions: How many it has been asked.
        hold_s: For how long its last word holds.
        answering: Set while the controller answers.
        asked_often: Set once it has been asked five times.
    """

    def __init__(self, check_s: float = 0.0) -> None:
        self.here: dict[tuple[str, int, int, int], bool] = {}
        self.says: Exception | None = None
        self.questions = 0
        self.hold_s = 300.0
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked_often = asyncio.Event()
        self.streams = AuthenticatedStreams()
        self.tokens = AttemptTokens(
            lambda *key: self.here.get(key), self._ask, self.streams, lambda: self.hold_s, check_s
        )

    async def _ask(self, known: Caller, token: str) -> None:
        self.questions += 1
        if self.questions >= 5:
            self.asked_often.set()
        await self.answering.wait()
        if self.says is not None:
            raise self.says


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_token_of_an_attempt_on_this_worker_is_checked_without_the_controller() -> None:
    async def work() -> None:
        world = World()
        world.here["a", 0, 0, 0] = True
        await world.tokens.confirm(FOREIGN, "token")
        world.here["a", 0, 0, 0] = False
        with pytest.raises(UnauthenticatedError, match="attempt 0 of task 0 of job 'a' has ended"):
            await world.tokens.confirm(FOREIGN, "token")
        assert world.questions == 0

    run(work())


def test_token_of_an_attempt_on_another_worker_is_checked_repeatedly_with_the_controller() -> None:
    async def work() -> None:
        world = World(check_s=1000)
        await asyncio.gather(*(world.tokens.confirm(FOREIGN, "token") for _ in range(20)))
        await world.tokens.confirm(FOREIGN, "token")
        assert world.questions == 1
        world = World(check_s=0)
        await world.tokens.confirm(FOREIGN, "token")
        world.says = UnauthenticatedError("attempt 0 has ended")
        with pytest.raises(UnauthenticatedError, match="attempt 0 has ended"):
            await world.tokens.confirm(FOREIGN, "token")
        with pytest.raises(UnauthenticatedError):
            world.tokens.check(FOREIGN)

    run(work())


def test_cancelled_check_of_a_token_does_not_cancel_other_checks() -> None:
    async def work() -> None:
        world = World()
        world.answering.clear()
        first, second = (asyncio.create_task(world.tokens.confirm(FOREIGN, "token")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        world.answering.set()
        await second
        assert first.cancelled()

    run(work())


def test_check_of_a_token_is_unavailable_while_the_controller_does_not_answer() -> None:
    async def work() -> None:
        world = World()
        world.says = UnavailableError("the controller is away")
        with pytest.raises(UnavailableError, match=r"attempt 0 of task 0 of job 'a'.* the controller is away"):
            await world.tokens.confirm(FOREIGN, "token")
        world.says = None
        await world.tokens.confirm(FOREIGN, "token")

    run(work())


def test_last_answer_of_the_controller_about_a_token_is_valid_for_one_lease() -> None:
    async def work() -> None:
        world = World()
        await world.tokens.confirm(FOREIGN, "token")
        world.says = UnavailableError("the controller is away")
        await world.tokens.confirm(FOREIGN, "token")
        world.hold_s = 0.0
        with pytest.raises(UnavailableError, match=r"it is unknown whether attempt 0 .* has not answered for 0 s"):
            await world.tokens.confirm(FOREIGN, "token")
        world.says = None
        world.hold_s = 300.0
        await world.tokens.confirm(FOREIGN, "token")

    run(work())


def test_log_stream_ends_when_the_attempt_of_its_token_has_ended() -> None:
    async def work() -> None:
        world = World(check_s=0.01)
        world.here["b", 0, 0, 0] = True
        here = Caller("b/task-0", TASK, "2", math.inf, job_id="b", task_index=0, attempt_id=0)
        for known in (FOREIGN, here):
            await world.tokens.confirm(known, "token")
        rounds = asyncio.create_task(world.tokens.run())

        async def stream(known: Caller) -> None:
            with world.streams.streaming(known):
                try:
                    async with asyncio.timeout(None) as limit:
                        with world.streams.waiting(limit, known):
                            await asyncio.Event().wait()
                except TimeoutError:
                    world.tokens.check(known)

        streams = [asyncio.create_task(stream(known)) for known in (FOREIGN, here)]
        await world.asked_often.wait()  # in use by a stream, so asked about again and again
        assert not any(stream.done() for stream in streams)
        world.says = UnauthenticatedError("attempt 0 has ended")
        with pytest.raises(UnauthenticatedError, match="attempt 0 has ended"):
            await streams[0]
        assert not streams[1].done()
        world.here["b", 0, 0, 0] = False
        world.tokens.ended("b", 0, 0)
        with pytest.raises(UnauthenticatedError, match=r"of job 'b'.* has ended"):
            await streams[1]
        rounds.cancel()

    run(work())

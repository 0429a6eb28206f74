"""The engine's end of the pipes to the process that talks with Ray (driver.py), which is kept running."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from iris.cluster.engine.base import GangRejectedError
from iris.errors import IrisError, UnavailableError

_LISTEN_S = 0.5
_SILENT_S = 5.0  # it says something every half second while Ray answers
_HUNG_S = 15.0  # a call to a Ray that is away may hang, also once it is back: then better another process
_CONNECT_S = 40.0
_ANSWER_S = 10.0
_RESTART_PAUSE_S = (0.0, 0.5, 2.0, 5.0)
_LIVED_LONG_S = 30.0
_LONGEST_LINE = 256 * 1024 * 1024  # what there is of a large cluster
_log = logging.getLogger(__name__)

Json = dict[str, Any]


class RayPipe:
    """See above.

    Args:
        messages: The file that it writes its own messages to.
        env: Its environment.
        setup: What it is told first.
        on_state: Called with what there is now, each time that has changed.
        on_answer: Called whenever Ray has answered, at least every half second while it does.

    Attributes:
        life: How often it has been connected.
        addresses: Those of Ray's machines, when it was connected last.
    """

    def __init__(
        self,
        messages: Path,
        env: Mapping[str, str],
        setup: Json,
        on_state: Callable[[Json], None],
        on_answer: Callable[[], None],
    ) -> None:
        self._messages = messages
        self._env = dict(env)
        self._setup = setup
        self._on_state = on_state
        self._on_answer = on_answer
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._silent_s = 0.0
        self._is_connected = False
        self._failure = "it is starting"
        self._keeper: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._patience_s = _HUNG_S
        self.addresses: list[str] = []
        self.life = 0

    async def start(self) -> None:
        """Returns once it is connected.

        Raises:
            UnavailableError: It could not be; the text says why.
        """
        self._keeper = asyncio.create_task(self._keep())
        try:
            await self._first
        except BaseException:
            await self.end()
            raise

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return None if self._process is None else self._process.pid

    def check(self) -> None:
        """Raises UnavailableError unless Ray has answered just now."""
        if not self._is_connected:
            raise UnavailableError(f"Ray cannot be reached: {self._failure}")
        if self._silent_s >= _SILENT_S:
            raise UnavailableError(f"Ray has not answered for {self._silent_s:.0f} s")

    async def order(self, verb: str, timeout_s: float = _ANSWER_S, **arguments: object) -> None:
        """Has it done something.

        Raises:
            GangRejectedError: Ray will never do that.
            UnavailableError: It cannot be told whether it was done, or will be.
        """
        self.check()
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._patience_s = max(timeout_s, self._patience_s)  # the longest is the last one, which ends it all
        try:
            await self._write({"id": number, "do": verb, "with": arguments})
            async with asyncio.timeout(timeout_s):
                await answer
        except TimeoutError:
            raise UnavailableError(f"Ray has not answered within {timeout_s:g} s") from None
        finally:
            self._answers.pop(number, None)

    async def end(self) -> None:
        """Ends it; what is on Ray stays."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def _write(self, message: Json) -> None:
        if self._process is None or self._process.stdin is None:
            raise UnavailableError(f"Ray cannot be reached: {self._failure}")
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        except OSError as error:
            raise UnavailableError("the process that talks with Ray has just died") from error

    async def _keep(self) -> None:
        """Keeps it running, until this is cancelled."""
        deaths = 0
        while True:
            started_s = time.monotonic()
            try:
                await self._live()
            except OSError as error:
                self._failure = f"the process that talks with Ray cannot be started: {error}"
            finally:
                self._is_connected = False
                self._fail_all(UnavailableError(f"Ray cannot be reached: {self._failure}"))
            if not self._first.done():
                self._first.set_exception(UnavailableError(f"Ray cannot be reached: {self._failure}"))
                return
            _log.warning("the process that talks with Ray has ended: %s; it is started again", self._failure)
            deaths = 0 if time.monotonic() - started_s > _LIVED_LONG_S else deaths + 1
            await asyncio.sleep(_RESTART_PAUSE_S[min(deaths, len(_RESTART_PAUSE_S) - 1)])

    async def _live(self) -> None:
        """One life of it."""
        self._failure = "the process that talks with Ray has died"
        with self._messages.open("ab") as messages:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "iris.cluster.engine.ray.driver"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=messages,
                env=self._env,
                limit=_LONGEST_LINE,
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        try:
            await self._write(self._setup)
            await self._listen(process)
        except UnavailableError:
            pass  # it is said by its end
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            self._process = None
            await asyncio.shield(process.wait())

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        reading = asyncio.create_task(process.stdout.readline())
        self._silent_s = 0.0
        try:
            while True:
                # Counted as long as we do listen: whoever keeps our loop busy must not make Ray look dead.
                await asyncio.wait([reading], timeout=_LISTEN_S)
                limit_s = self._patience_s if self._is_connected else _CONNECT_S
                if reading.done():
                    line = await reading
                    if not line.endswith(b"\n"):
                        return  # it has died, perhaps in the middle of a line
                    self._silent_s = 0.0
                    self._take(json.loads(line))
                    reading = asyncio.create_task(process.stdout.readline())
                elif (silent_s := self._silent_s + _LISTEN_S) > limit_s:
                    self._failure = f"it has not answered for {limit_s:g} s"
                    return
                else:
                    self._silent_s = silent_s
        finally:
            reading.cancel()

    def _take(self, message: Json) -> None:
        if "id" in message:
            self._take_answer(message)
        elif "failed" in message:
            self._failure = message["failed"]
        elif "ready" in message:
            self.addresses = message["ready"]
            self.life += 1
        else:
            self._is_connected = True
            if "state" in message:
                self._on_state(message["state"])
            self._on_answer()
            if not self._first.done():
                self._first.set_result(None)

    def _take_answer(self, message: Json) -> None:
        answer = self._answers.get(message["id"])
        if answer is None or answer.done():
            return  # nobody waits for it any more
        error: IrisError | None = None
        if "rejected" in message:
            error = GangRejectedError(message["rejected"])
        elif "failed" in message:
            error = UnavailableError(f"Ray could not do it: {message['failed']}")
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _fail_all(self, error: IrisError) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)


def driver_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of the process that talks with Ray: it phones nobody, and writes no token into the home. Below
    `uv run` Ray would send the current folder to all machines, and start each actor there by `uv run`, too."""
    changed = dict(env) | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/"}
    changed["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    if "RAY_AUTH_MODE" not in changed:
        has_token = any(name in changed for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        file = Path(changed.get("HOME", os.path.expanduser("~"))) / ".ray" / "auth_token"
        changed["RAY_AUTH_MODE"] = (
            "token" if has_token or file.exists() else "disabled"
        )  # Ray's own rule, made explicit
    return changed

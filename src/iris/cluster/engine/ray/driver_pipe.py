"""Runs the driver process of the Ray engine (driver.py): restarts the process when it dies, and exchanges messages with
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from iris.cluster.engine.base import GangRejectedError
from iris.errors import IrisError, UnavailableError
from iris.system.backoff import RestartPauses

_LISTEN_S = 0.5
_SILENT_S = 5.0  # The seconds of silence of the driver after which Ray counts as unreachable.

# The seconds of silence after which the driver is restarted. A call to Ray may hang forever, even after Ray can be
# reached again.
_HUNG_S = 15.0
_CONNECT_S = 40.0
_ANSWER_S = 10.0
_RESTART_PAUSE_S = (0.0, 0.5, 2.0, 5.0)
_LIVED_LONG_S = 30.0
# The longest line from the driver. A line of this length can contain the state of a large cluster.
_LONGEST_LINE = 256 * 1024 * 1024
_log = logging.getLogger(__name__)

Json = dict[str, Any]


class RayPipe:
    """The connection to the driver process.

    Args:
        messages: The file for the stderr of the driver process.
        env: The environment of the driver process.
        setup: The first message to the driver process: Ray's address and the arguments of workers.
        on_state: A function that is called with the new state whenever the state on Ray has changed.
        on_answer: A function that is called whenever Ray has answered, which is at least every half second while Ray
            can be reached.

    Attributes:
        life: The number of driver processes that have connected to Ray so far.
        addresses: The addresses of Ray's machines at the time of the last connection.
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
        # The result of the first try to connect to Ray.
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._patience_s = _HUNG_S
        self.addresses: list[str] = []
        self.life = 0

    async def start(self) -> None:
        """Start the driver process, and return once it is connected to Ray.

        Raises:
            UnavailableError: The driver could not connect, for the reason in the message.
        """
        self._keeper = asyncio.create_task(self._keep())
        try:
            await self._connected
        except BaseException:
            await self.end()
            raise

    @property
    def pid(self) -> int | None:
        """The process id of the driver, or None while it does not run."""
        return None if self._process is None else self._process.pid

    def check(self) -> None:
        """Raise UnavailableError unless Ray has answered within the last five seconds."""
        if not self._is_connected:
            raise UnavailableError(f"Ray cannot be reached: {self._failure}")
        if self._silent_s >= _SILENT_S:
            raise UnavailableError(f"Ray has not answered for {self._silent_s:.0f} s")

    async def order(self, verb: str, timeout_s: float = _ANSWER_S, **arguments: object) -> None:
        """Send a command to the driver process and wait until it has been executed.

        Args:
            verb: The name of a method of `RayGangs`.
            timeout_s: The seconds to wait for the answer.
            arguments: The arguments with which the method is called.

        Raises:
            GangRejectedError: Ray can never allocate the gang.
            UnavailableError: The driver did not answer. The command may or may not take effect.
        """
        self.check()
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        # A long command raises the time limit for silence permanently. The raised limit does no harm, because the
        # longest command, `close`, is the last command.
        self._patience_s = max(timeout_s, self._patience_s)
        try:
            await self._write({"id": number, "do": verb, "with": arguments})
            async with asyncio.timeout(timeout_s):
                await answer
        except TimeoutError:
            raise UnavailableError(f"Ray has not answered within {timeout_s:g} s") from None
        finally:
            self._answers.pop(number, None)

    async def end(self) -> None:
        """End the driver process. Gangs keep running on Ray."""
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
            raise UnavailableError("the Ray driver process has just died and is being restarted: try again") from error

    async def _keep(self) -> None:
        """Restart the driver process whenever it dies. Return only if the first start fails."""

        async def live() -> bool:
            try:
                await self._run_driver()
            except OSError as error:
                self._failure = f"the Ray driver process cannot be started: {error}"
            finally:
                self._is_connected = False
                self._fail_all(UnavailableError(f"Ray cannot be reached: {self._failure}"))
            if not self._connected.done():
                self._connected.set_exception(UnavailableError(f"Ray cannot be reached: {self._failure}"))
                return False
            _log.warning("the Ray driver process has ended and is restarted: %s", self._failure)
            return True

        await RestartPauses(_RESTART_PAUSE_S, _LIVED_LONG_S).keep_alive(live)

    async def _run_driver(self) -> None:
        """Run one process that drives Ray until the process ends or stays silent for too long."""
        self._failure = "the Ray driver process has died"
        with self._messages.open("ab") as messages:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "iris.cluster.engine.ray.driver"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=messages,
                env=self._env,
                limit=_LONGEST_LINE,
                start_new_session=True,  # In a new session, the driver does not receive Ctrl-C from a terminal.
            )
        try:
            await self._write(self._setup)
            await self._listen(process)
        except UnavailableError:
            pass  # The driver process has ended. The caller of this method restarts the process.
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
                # The time in which this process is busy and does not read does not count as silence of the driver.
                # Otherwise Ray would seem unreachable whenever this process is busy.
                await asyncio.wait([reading], timeout=_LISTEN_S)
                limit_s = self._patience_s if self._is_connected else _CONNECT_S
                if reading.done():
                    line = await reading
                    if not line.endswith(b"\n"):
                        return  # The driver process died while it wrote this line. The caller restarts the process.
                    self._silent_s = 0.0
                    self._handle(json.loads(line))
                    reading = asyncio.create_task(process.stdout.readline())
                elif (silent_s := self._silent_s + _LISTEN_S) > limit_s:
                    self._failure = f"it has not answered for {limit_s:g} s"
                    return
                else:
                    self._silent_s = silent_s
        finally:
            reading.cancel()

    def _handle(self, message: Json) -> None:
        if "id" in message:
            self._handle_answer(message)
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
            if not self._connected.done():
                self._connected.set_result(None)

    def _handle_answer(self, message: Json) -> None:
        answer = self._answers.get(message["id"])
        if answer is None or answer.done():
            return  # The answer is dropped, because its caller has stopped waiting.
        error: IrisError | None = None
        if "rejected" in message:
            error = GangRejectedError(message["rejected"])
        elif "failed" in message:
            error = UnavailableError(f"Ray could not execute the command: {message['failed']}")
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _fail_all(self, error: IrisError) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)


def driver_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the driver process, based on `env`.

    The environment turns off Ray's usage statistics, and keeps Ray from writing a token into the home directory. The
    environment also turns off Ray's support for `uv run`, because this support would send the current folder to all
    machines and start each actor with `uv run`.
    """
    changed = dict(env) | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/"}
    changed["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    if "RAY_AUTH_MODE" not in changed:
        has_token = any(name in changed for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        file = Path(changed.get("HOME", os.path.expanduser("~"))) / ".ray" / "auth_token"
        # By default, Ray creates a token if none exists. Therefore the environment allows Ray a token only if one
        # exists.
        changed["RAY_AUTH_MODE"] = "token" if has_token or file.exists() else "disabled"
    return changed

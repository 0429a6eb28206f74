"""Implements failpoints: named places in the code at which a test makes a process die, pause or fail. An environment
variable selects them.

Do not set the environment variable `IRIS_FAILPOINTS` in production.

    IRIS_FAILPOINTS="store.commit.before=kill@3; report.before=delay:200; controller.reply.before=drop:0.01/7"

The variable consists of parts of the form NAME=ACTION[WHEN], separated by semicolons. A name may occur more than once.

| action     | effect                                                                                      |
|------------|---------------------------------------------------------------------------------------------|
| `kill`     | SIGKILL to this process                                                                     |
| `stop`     | SIGSTOP to this process, until it gets SIGCONT                                               |
| `delay:MS` | blocks the thread at the failpoint, like a slow disk or a busy machine                      |
| `error`    | raises `UnavailableError`; only at a failpoint before an action, because a done action cannot fail |
| `drop`     | loses a message by cutting its connection; only where a server receives and answers calls   |

| when       | the action happens                                                                               |
|------------|--------------------------------------------------------------------------------------------------|
| (empty)    | each time                                                                                        |
| `@N`       | only the Nth time that this process reaches the failpoint                                        |
| `:P/SEED`  | with the probability P; the random numbers depend only on the seed and the name                  |

Servers pass `IRIS_FAILPOINTS` on to their workers, but not to tasks. Without the variable, `failpoint` is an empty
function. A process with the variable writes a line to stderr when it starts, and before it kills or stops itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from iris.errors import InvalidArgumentError, UnavailableError

VARIABLE = "IRIS_FAILPOINTS"

# The names of all failpoints. `NAME.before` and `NAME.after` are the places before and after an action. A server
# reaches `….request` when it has received a call, before it processes the call, and `….reply.after` when it has sent
# the answer.
NAMES = frozenset(
    {
        # The following names are failpoints of the controller.
        "controller.request",
        "controller.reply.before",
        "controller.reply.after",
        "store.commit.before",  # Failpoints around the commit of a transaction to the database.
        "store.commit.after",
        "migrate.before",  # Failpoints around the migration of the jobs of an older database.
        "migrate.after",
        "placement.before",  # Failpoints around the submission of a gang to the engine.
        "placement.after",
        "engine.spawn.before",  # Failpoints around the start of a worker by the local engine.
        "engine.spawn.after",
        "start.before",  # Failpoints around the call RunTasks to a worker.
        "start.after",
        "stop.before",  # Failpoints around the call KillTask to a worker.
        "stop.after",
        "drain.before",  # Failpoints around the call Drain to a worker.
        "drain.after",
        "keep.before",  # Failpoints around writing uploaded parts of logs to the disk.
        "keep.after",
        "fold.before",  # Failpoints around the commit of folded logs. Their files are removed after `fold.after`.
        "fold.after",
        "forget.before",  # The job was removed from the database, and its logs on this machine are removed next.
        # The following names are failpoints of a worker.
        "register.before",
        "register.after",
        "attempt.before",  # Failpoints around the creation of an attempt's directory.
        "attempt.after",
        "spawn.before",  # Failpoints around the start of an attempt's process.
        "spawn.after",
        "reap.before",  # Failpoints around collecting the exit code of an attempt's process.
        "reap.after",
        "finish.before",  # Failpoints around writing the end of an attempt's log.
        "finish.after",
        "report.before",  # Failpoints around a report about attempts.
        "report.after",
        # The failpoint before each call that sends a part of the outputs of an attempt.
        "outputs.before",
        # Failpoints around the upload of a part of a log.
        "handover.before",
        "handover.after",
        "worker.request",
        "worker.reply.before",
        "worker.reply.after",
    }
)
_MESSAGES = (".request", ".reply.before", ".reply.after")
_FORM = re.compile(r"(kill|stop|error|drop|delay:(\d+))(?:@([1-9]\d*)|:(0?\.\d+|1|1\.0)/(\w+))?")


class MessageDropped(Exception):
    """An exception that a failpoint raises so that a message is lost. The server either has just received the message
    or is about to send it."""


@dataclass(slots=True)
class Failpoint:
    """An action at a failpoint, with the condition under which it happens.

    Attributes:
        name: The name of the failpoint.
        action: kill, stop, delay, error or drop.
        delay_ms: The length of the delay in milliseconds, if the action is `delay`.
        at: N if the action happens only when the process reaches the failpoint for the Nth time. 0 if the action
            happens each time, or at random times.
        chance: The probability of the action, from 0 to 1.
        draws: The source of random numbers.
        times: The number of times that this process has reached the failpoint.
    """

    name: str
    action: str
    delay_ms: int = 0
    at: int = 0
    chance: float = 1.0
    draws: random.Random = field(default_factory=random.Random)
    times: int = 0

    def strikes(self) -> bool:
        """Count that the process has reached the failpoint, and return whether the action happens this time."""
        self.times += 1
        if self.at:
            return self.times == self.at
        return self.chance == 1.0 or self.draws.random() < self.chance

    def strike(self) -> None:
        """Perform the action.

        Raises:
            UnavailableError: The action of the failpoint is `error`.
            MessageDropped: The action of the failpoint is `drop`.
        """
        if self.action in ("kill", "stop"):
            _say(f"{self.name}: {self.action}")
            os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)
        elif self.action == "delay":
            time.sleep(self.delay_ms / 1000)
        elif self.action == "error":
            raise UnavailableError(f"{VARIABLE} makes the failpoint {self.name} raise this error")
        else:
            raise MessageDropped(self.name)


def parse(text: str) -> dict[str, list[Failpoint]]:
    """Return the failpoints that the text of the environment variable describes, by name.

    Raises:
        InvalidArgumentError: A name is unknown, or a part has another form than NAME=ACTION[WHEN].
    """
    found: dict[str, list[Failpoint]] = {}
    for part in text.split(";"):
        name, _, what = (word.strip() for word in part.partition("="))
        if not name and not what:
            continue
        if name not in NAMES:
            raise InvalidArgumentError(
                f"{VARIABLE}: there is no failpoint {name!r}; expected one of {', '.join(sorted(NAMES))}"
            )
        match = _FORM.fullmatch(what)
        if match is None:
            raise InvalidArgumentError(
                f"{VARIABLE}: {part.strip()!r} is not NAME=ACTION: the actions are kill, stop, error, drop and"
                " delay:MS, and @N (only the Nth time) or :P/SEED (with the probability P) may follow"
            )
        action, delay_ms, at, chance, seed = match.groups()
        action = action.partition(":")[0]
        if action == "drop" and not name.endswith(_MESSAGES):
            raise InvalidArgumentError(
                f"{VARIABLE}: no message is sent at the failpoint {name}, therefore its action cannot be drop"
            )
        if action == "error" and name.endswith((".after", ".reply.before")):
            raise InvalidArgumentError(
                f"{VARIABLE}: the failpoint {name} is reached after its step was done, therefore its action cannot be"
                " error"
            )
        draws = random.Random(f"{seed}/{name}")
        failpoint = Failpoint(name, action, int(delay_ms or 0), int(at or 0), float(chance or 1), draws)
        found.setdefault(name, []).append(failpoint)
    return found


def _say(what: str) -> None:
    # The line is written directly to stderr, because logging may not be set up yet, and the process may kill itself
    # immediately afterwards. An error of the write is ignored, so that the failpoint strikes even if stderr is a file
    # on a full disk.
    with contextlib.suppress(OSError):
        os.write(2, f"iris failpoint {what}\n".encode())


def _off(name: str) -> None:
    """Do nothing. This function is `failpoint` if no failpoint is active."""


def _on(name: str) -> None:
    for one in _asked_for.get(name, ()):
        if one.strikes():
            one.strike()


_asked_for = parse(os.environ.get(VARIABLE, ""))
if _asked_for:
    _say(f"active: {os.environ[VARIABLE]}")
failpoint: Callable[[str], None] = _on if _asked_for else _off
is_active = bool(_asked_for)

"""Places where a test lets this program die, dawdle or fail, told by an environment variable. Never in production.

    IRIS_FAILPOINTS="store.commit.before=kill@3; report.before=delay:200; controller.reply.before=drop:0.01/7"

Each part is NAME=ACTION[WHEN], parts are separated by semicolons, and a name may come more than once.

| action     | what it does                                                                                |
|------------|---------------------------------------------------------------------------------------------|
| `kill`     | SIGKILL to this process                                                                     |
| `stop`     | SIGSTOP to this process, until somebody continues it                                        |
| `delay:MS` | blocks the thread that gets there, as a slow disk or a busy machine does                    |
| `error`    | raises `UnavailableError`; only before something is done, for what is done cannot have failed |
| `drop`     | loses the message by cutting its connection; only where a server takes and answers calls    |

| when       | it strikes                                                                                       |
|------------|--------------------------------------------------------------------------------------------------|
| nothing    | each time                                                                                        |
| `@N`       | the Nth time that this process gets there, and never again                                       |
| `:P/SEED`  | with the chance P; when is drawn from seed and name alone, in each process that gets there anew  |

Servers hand the variable on to their workers; tasks do not get it. Without the variable `failpoint` is an empty
function. With it, a process says so on its stderr at its start, and before it kills or stops itself.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from iris.errors import InvalidArgumentError, UnavailableError

VARIABLE = "IRIS_FAILPOINTS"

# All there are. `x.before` and `x.after` stand around what is done; a call has not been looked at when it comes to
# `….request`, and an answer is on its way when it comes to `….reply.after`.
NAMES = frozenset(
    {
        # The controller.
        "store.commit.before",  # a transaction of its database
        "store.commit.after",
        "placement.before",  # a gang is submitted to the engine
        "placement.after",
        "engine.spawn.before",  # the local engine starts a worker
        "engine.spawn.after",
        "start.before",  # RunTasks is sent to a worker
        "start.after",
        "stop.before",  # KillTask is
        "stop.after",
        "drain.before",  # Drain is
        "drain.after",
        "keep.before",  # pieces of logs that workers hand over are written
        "keep.after",
        "controller.request",
        "controller.reply.before",
        "controller.reply.after",
        # A worker.
        "register.before",
        "register.after",
        "attempt.before",  # an attempt's directory is made
        "attempt.after",
        "spawn.before",  # an attempt's process is started
        "spawn.after",
        "reap.before",  # an attempt's process, which has ended, is collected
        "reap.after",
        "finish.before",  # the end of an attempt's log is written
        "finish.after",
        "report.before",  # attempts are reported
        "report.after",
        "handover.before",  # pieces of logs are handed over
        "handover.after",
        "worker.request",
        "worker.reply.before",
        "worker.reply.after",
    }
)
_MESSAGES = (".request", ".reply.before", ".reply.after")
_FORM = re.compile(r"(kill|stop|error|drop|delay:(\d+))(?:@([1-9]\d*)|:(0?\.\d+|1|1\.0)/(\w+))?")


class MessageDropped(Exception):
    """What a server has received, or was about to send, is to be lost."""


@dataclass(slots=True)
class Failpoint:
    """What happens at one place.

    Attributes:
        delay_ms: Of a delay.
        at: The only time that it strikes; 0: each time, or by chance.
        chance: From 0 to 1.
        draws: Decides about each time, where it strikes by chance.
        times: How often this process has been there.
    """

    name: str
    action: str
    delay_ms: int = 0
    at: int = 0
    chance: float = 1.0
    draws: random.Random = field(default_factory=random.Random)
    times: int = 0

    def strikes(self) -> bool:
        """Counts one more time, and decides about it."""
        self.times += 1
        if self.at:
            return self.times == self.at
        return self.chance == 1.0 or self.draws.random() < self.chance

    def strike(self) -> None:
        """Does it.

        Raises:
            UnavailableError: The action is `error`.
            MessageDropped: It is `drop`.
        """
        if self.action in ("kill", "stop"):
            _say(f"{self.name}: {self.action}")
            os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)
        elif self.action == "delay":
            time.sleep(self.delay_ms / 1000)
        elif self.action == "error":
            raise UnavailableError(f"failpoint {self.name}")
        else:
            raise MessageDropped(self.name)


def parse(text: str) -> dict[str, list[Failpoint]]:
    """The failpoints that the variable asks for, by name.

    Raises:
        InvalidArgumentError: There is no such name, or it cannot be meant.
    """
    found: dict[str, list[Failpoint]] = {}
    for part in text.split(";"):
        name, _, what = (word.strip() for word in part.partition("="))
        if not name and not what:
            continue
        if name not in NAMES:
            raise InvalidArgumentError(
                f"{VARIABLE}: there is no failpoint {name!r}; there are {', '.join(sorted(NAMES))}"
            )
        match = _FORM.fullmatch(what)
        if match is None:
            raise InvalidArgumentError(
                f"{VARIABLE}: {part.strip()!r} is not NAME=ACTION, with one of kill, stop, error, drop, delay:MS"
                " and then nothing, @N or :P/SEED"
            )
        action, delay_ms, at, chance, seed = match.groups()
        action = action.partition(":")[0]
        if action == "drop" and not name.endswith(_MESSAGES):
            raise InvalidArgumentError(f"{VARIABLE}: {name} is no message that could be dropped")
        if action == "error" and name.endswith((".after", ".reply.before")):
            raise InvalidArgumentError(f"{VARIABLE}: {name} comes when it is done: it cannot fail any more")
        draws = random.Random(f"{seed}/{name}")
        failpoint = Failpoint(name, action, int(delay_ms or 0), int(at or 0), float(chance or 1), draws)
        found.setdefault(name, []).append(failpoint)
    return found


def _say(what: str) -> None:
    # Not by logging: it has to be out before the next line runs, and nothing may be set up yet.
    os.write(2, f"iris failpoint {what}\n".encode())


def _off(name: str) -> None:
    """Nothing is asked for: nothing happens."""


def _on(name: str) -> None:
    for one in _asked_for.get(name, ()):
        if one.strikes():
            one.strike()


_asked_for = parse(os.environ.get(VARIABLE, ""))
if _asked_for:
    _say(f"active: {os.environ[VARIABLE]}")
failpoint: Callable[[str], None] = _on if _asked_for else _off
is_active = bool(_asked_for)

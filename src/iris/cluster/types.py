"""What all parts of Iris share: ids, what a task knows of itself, what it asks for, and which states are final."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iris.errors import InvalidArgumentError, ResourceExhaustedError, quoted

# JobState and TaskState of the wire have the same numbers; 4 to 8 are final.
STATE_NAMES = {
    0: "UNSPECIFIED",
    1: "PENDING",
    2: "BUILDING",
    3: "RUNNING",
    4: "SUCCEEDED",
    5: "FAILED",
    6: "KILLED",
    7: "WORKER_FAILED",
    8: "UNSCHEDULABLE",
}
FINAL_STATES = frozenset({4, 5, 6, 7, 8})
# By which calls of the cluster are made: a user's own, or inside of a job the task's.
TOKEN_VARIABLE = "IRIS_TOKEN"
HOSTS_VARIABLE = "IRIS_HOSTS_FILE"

TASK_ID_FORM = '"{job_id}/task-{index}", with an index from 0'
_TASK_ID = re.compile(r"(?P<job_id>.+)/task-(?P<index>0|[1-9][0-9]{0,8})", re.DOTALL | re.ASCII)
# Of C0 and C1, the ends of lines of Unicode, and those that turn the direction of text around: a name must look like
# itself wherever it is printed.
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
MAX_NAME_BYTES = 200  # of a job, an endpoint, a worker, a port, in UTF-8
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_PORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def is_job_finished(state: int) -> bool:
    """Whether a `JobState` is final: SUCCEEDED, FAILED, KILLED, WORKER_FAILED or UNSCHEDULABLE."""
    return state in FINAL_STATES


def is_task_finished(state: int) -> bool:
    """Whether a `TaskState` is final. A task that will be retried is PENDING, never in a final state."""
    return state in FINAL_STATES


def state_name(state: int) -> str:
    """The short name of a `JobState` or `TaskState`, as people read it: `RUNNING`."""
    return STATE_NAMES.get(state, f"STATE_{state}")


def make_task_id(job_id: str, task_index: int) -> str:
    """The id of a task: `"{job_id}/task-{index}"`."""
    return f"{job_id}/task-{task_index}"


def parse_task_id(task_id: str) -> tuple[str, int]:
    """Splits a task id at its last `/` into job id and index.

    Raises:
        InvalidArgumentError: (a `ValueError`) The text is no task id.
    """
    match = _TASK_ID.fullmatch(task_id)
    if match is None:
        raise InvalidArgumentError(f"not a task id: {quoted(task_id)} (expected {TASK_ID_FORM})")
    return match["job_id"], int(match["index"])


def check_job_name(name: str) -> None:
    """Refuses a name that a user may not give to a job.

    Raises:
        InvalidArgumentError: The name is empty, or contains `/` or a control character.
        ResourceExhaustedError: It is longer than `MAX_NAME_BYTES`.
    """
    if not isinstance(name, str):
        raise InvalidArgumentError(f"not a job name: {name!r} (expected text)")
    check_name("job", name)
    if "/" in name:
        raise InvalidArgumentError(
            f"not a job name: {name!r} contains '/' (job ids with '/' are made by Iris for the jobs of a job)"
        )


def check_name(kind: str, name: str) -> None:
    """Refuses a name that people could not read, write and tell from others.

    Args:
        kind: What it is the name of, for the error.
        name: The name.

    Raises:
        InvalidArgumentError: It is empty, or contains a control character.
        ResourceExhaustedError: It is longer than `MAX_NAME_BYTES`.
    """
    article = "an" if kind[0] in "aeiou" else "a"
    if not name:
        raise InvalidArgumentError(f"{article} {kind}'s name must not be empty")
    check_utf8(f"{article} {kind} name", name)
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        raise ResourceExhaustedError(
            f"the {kind} name {quoted(name)} is too long: {size:,} bytes in UTF-8, over the limit of {MAX_NAME_BYTES}"
        )
    if _CONTROL_CHARACTER.search(name):
        raise InvalidArgumentError(f"not {article} {kind} name: {name!r} contains a control character")


def check_utf8(what: str, text: str) -> None:
    """Refuses text that cannot be sent: file names that are no UTF-8 come as such.

    Raises:
        InvalidArgumentError: The text has no form in UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            f"not {what}: {quoted(text)} is no UTF-8 (is the locale's encoding UTF-8?)"
        ) from None


def check_port_name(name: str) -> None:
    """Refuses a port name that cannot be part of the name of an environment variable.

    Raises:
        InvalidArgumentError: The name is not letters, digits and `_`, starting with no digit, or is too long.
    """
    if not _PORT_NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
        raise InvalidArgumentError(
            f"not a port name: {quoted(name)} (expected letters, digits and '_', as in 'http': the task finds"
            " its port in IRIS_PORT_HTTP)"
        )


def check_label(key: str, value: str) -> None:
    """Refuses what cannot be a label of a machine on every engine.

    The rule is the one of Kubernetes for label values, with `/` for keys such as `cloud/zone`: 1 to 63 letters, digits,
    `-`, `_` and `.`, with a letter or digit at both ends.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not all(_LABEL.fullmatch(part) for part in (*key.split("/", 1), value)):
        raise InvalidArgumentError(
            f"not a label of machines: {quoted(f'{key}={value}')} (expected KEY=VALUE, each 1 to 63 letters, digits,"
            " '-', '_' and '.', with a letter or digit at both ends)"
        )


@dataclass(frozen=True)
class ResourceSpec:
    """What each task of a job needs to be placed. Zero, the default, reserves nothing.

    Attributes:
        cpu: Cores. A task that uses more is not stopped.
        memory: Bytes, or text such as `"512MB"` or `"2GiB"` (see `parse_bytes`). A task that uses more is killed, and
            fails as out of memory; with zero it may use what there is.
        gpu: Devices; the task sees its own in `CUDA_VISIBLE_DEVICES`.
    """

    cpu: int = 0
    memory: int | str = 0
    gpu: int = 0

    def __post_init__(self) -> None:
        for name in ("cpu", "gpu"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
                raise InvalidArgumentError(f"{name}={value!r}: expected a whole number from 0")
        parse_bytes(self.memory)

    @property
    def memory_bytes(self) -> int:
        """The memory in bytes."""
        return parse_bytes(self.memory)


_BYTES = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?:([KMGT])(i?))?B?\s*", re.IGNORECASE | re.ASCII)


def parse_bytes(size: int | str) -> int:
    """A size in bytes: a whole number, or text with a unit: `"500K"`, `"512MB"` (10**6), `"2GiB"` (2**30).

    Raises:
        InvalidArgumentError: It is neither, or negative.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = _BYTES.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise InvalidArgumentError(f"not a size: {quoted(size)} (expected bytes, or text such as '512MB' or '2GiB')")
    number, unit, binary = match.groups()
    power = " KMGT".index(unit.upper()) if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


@dataclass(frozen=True)
class Entrypoint:
    """What a task runs: either a command (argv) or a callable with its arguments.

    Make one with `from_callable` or `from_command`.
    """

    command: tuple[str, ...] = ()
    callable: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_callable(cls, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Entrypoint:
        """Runs `function(*args, **kwargs)`; what it returns is the task's result.

        Raises:
            InvalidArgumentError: It cannot be called.
        """
        if not callable(function):
            raise InvalidArgumentError(f"not a callable: {function!r} (expected a function, or a list of words)")
        return cls(callable=function, args=args, kwargs=kwargs)

    @classmethod
    def from_command(cls, command: Sequence[str]) -> Entrypoint:
        """Runs a program: its name and arguments, as in `["python", "train.py"]`. No shell reads it.

        Raises:
            InvalidArgumentError: It is empty, one string instead of a list, or has words that are no strings.
        """
        if isinstance(command, str | bytes):
            raise InvalidArgumentError(
                f"a command is a list of words: {command!r} is one string"
                " (write ['python', 'train.py'], or ['sh', '-c', '…'] for a shell's)"
            )
        if not isinstance(command, Sequence):
            raise InvalidArgumentError(f"neither a callable nor a command: {command!r} (a command is a list of words)")
        words = tuple(os.fspath(word) if isinstance(word, os.PathLike) else word for word in command)
        if not words or not words[0]:
            raise InvalidArgumentError("a command must not be empty")
        for word in words:
            if not isinstance(word, str) or "\0" in word:
                raise InvalidArgumentError(f"not a word of a command: {word!r} (expected text without NUL)")
            check_utf8("a word of a command", word)
        return cls(command=words)

    @property
    def default_name(self) -> str:
        """The start of a job name when the user gives none: the function's, or the program's."""
        if self.command:
            text = os.path.basename(self.command[0])
            scripts = [word for word in self.command[1:] if word.endswith((".py", ".sh"))]
            if scripts and re.fullmatch(r"python[0-9.]*|uv|sh|bash", text):
                text = os.path.basename(scripts[0]).rsplit(".", 1)[0]
        else:
            text = getattr(self.callable, "__name__", type(self.callable).__name__)
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:100].strip("-.").lower() or "job"


@dataclass(frozen=True)
class JobInfo:
    """What a task knows of itself: the environment that its worker gave it, parsed.

    Attributes:
        job_id: The job that this code is part of.
        task_id: `"{job_id}/task-{index}"`.
        task_index: From 0.
        num_tasks: How many tasks the job has.
        attempt_id: From 0; a retry of the task counts on.
        worker_id: The worker that runs it.
        controller_address: Where `IrisClient.remote()` connects to.
        ports: The task's ports by name, in lower case.
        hosts_file: Where it is written on which hosts the tasks of its gang are; None: it has none.
    """

    job_id: str
    task_id: str | None = None
    task_index: int = 0
    num_tasks: int = 1
    attempt_id: int = 0
    worker_id: str | None = None
    controller_address: str | None = None
    ports: dict[str, int] = field(default_factory=dict)
    hosts_file: str | None = field(default=None, compare=False)  # where it lies says nothing of what the task is

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts on which the tasks of its gang are, by task index: names or addresses by which they reach each
        other. Read from `hosts_file` each time; empty for independent tasks.

        Raises:
            InvalidArgumentError: (a `ValueError`) The file cannot be read, or is not what the worker has written.
        """
        if self.hosts_file is None:
            return ()
        try:
            with open(self.hosts_file, encoding="utf-8") as file:
                hosts = tuple(file.read().removesuffix("\n").split("\n"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidArgumentError(f"{HOSTS_VARIABLE}={self.hosts_file!r} cannot be read: {reason}") from error
        if len(hosts) != self.num_tasks:
            raise InvalidArgumentError(
                f"{HOSTS_VARIABLE}={self.hosts_file!r} has {len(hosts)} lines: expected one host for each of"
                f" {self.num_tasks} tasks"
            )
        return hosts

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> JobInfo | None:
        """Reads the `IRIS_*` variables; None outside a job (`IRIS_JOB_ID` is not set).

        Args:
            env: Where to read; default `os.environ`.

        Raises:
            InvalidArgumentError: (a `ValueError`) A variable is malformed; the text names it.
        """
        env = os.environ if env is None else env
        job_id = env.get("IRIS_JOB_ID")
        if not job_id:
            return None
        task_id = env.get("IRIS_TASK_ID") or None
        if task_id is not None:
            try:
                parse_task_id(task_id)
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"IRIS_TASK_ID: {error}") from None
        prefix = "IRIS_PORT_"
        return cls(
            job_id=job_id,
            task_id=task_id,
            task_index=_whole_number(env, "IRIS_TASK_INDEX", default=0, low=0),
            num_tasks=_whole_number(env, "IRIS_NUM_TASKS", default=1, low=1),
            attempt_id=_whole_number(env, "IRIS_ATTEMPT_ID", default=0, low=0),
            worker_id=env.get("IRIS_WORKER_ID") or None,
            controller_address=env.get("IRIS_CONTROLLER_ADDRESS") or None,
            ports={
                name.removeprefix(prefix).lower(): _whole_number(env, name, default=0, low=1, high=65535)
                for name in env
                if name.startswith(prefix) and name != prefix
            },
            hosts_file=env.get(HOSTS_VARIABLE) or None,
        )


def _whole_number(env: Mapping[str, str], name: str, *, default: int, low: int, high: int | None = None) -> int:
    text = env.get(name)
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low or (high is not None and value > high):
        bounds = f"from {low}" if high is None else f"from {low} to {high}"
        raise InvalidArgumentError(f"{name}={text!r}: expected a whole number {bounds}")
    return value


def get_job_info() -> JobInfo | None:
    """What the task that this code runs in knows of itself; None outside a job.

    Raises:
        InvalidArgumentError: (a `ValueError`) An `IRIS_*` variable is malformed; the text names it.
    """
    return JobInfo.from_env()

"""Types that all parts of Iris share: states, resources, entrypoints, and what a task knows about itself."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from iris.arguments import (
    MAX_INT32,
    MAX_INT64,
    check_callable,
    check_items,
    check_keyword_arguments,
    check_millicores,
    check_utf8,
    check_whole_number,
    refuse,
)
from iris.cluster.states import FINAL_STATES as FINAL_STATES
from iris.cluster.states import STATE_NAMES as STATE_NAMES
from iris.cluster.states import JobState as JobState
from iris.cluster.states import TaskState as TaskState
from iris.cluster.states import is_job_finished as is_job_finished
from iris.cluster.states import is_task_finished as is_task_finished
from iris.cluster.states import state_name as state_name
from iris.cores import MILLICORES, cores_of, read_cores
from iris.counts import counted
from iris.errors import InvalidArgumentError, quoted
from iris.task_ids import TASK_ID_FORM as TASK_ID_FORM
from iris.task_ids import make_task_id as make_task_id
from iris.task_ids import parse_task_id as parse_task_id

# The name of the environment variable with the token for calls to a cluster. Inside a job, the variable contains the
# token of the task.
TOKEN_VARIABLE = "IRIS_TOKEN"
# The largest exit code of a process, because an exit code has one byte.
MAX_EXIT_CODE = 255
HOSTS_VARIABLE = "IRIS_HOSTS_FILE"
# The largest number of workers of a local cluster. Each worker is a process of about 60 MB.
MAX_LOCAL_WORKERS = 64


@dataclass(frozen=True)
class ResourceSpec:
    """The resources that each task of a job requests. Zero reserves nothing.

    Attributes:
        cpu: The number of cores, with up to three decimals, such as 2 or 0.25, or text such as `"250m"`. A task that
            uses more is not stopped.
            None, the default, reserves no core for the tasks of a gang. Independent tasks count as one core each if no
            resource is given, because otherwise all of them would start at once. `cpu=0` reserves no core in any case.
        memory: The number of bytes, or text such as `"512MB"` or `"2GiB"` (see `parse_bytes`). A task that uses more is
            killed, and fails as out of memory. With zero, the memory of the task is not limited.
        gpu: The number of devices. The task finds its devices in `CUDA_VISIBLE_DEVICES`.

    Raises:
        InvalidArgumentError: (a `ValueError`) An amount is not valid, for example negative, or a text of another form.
    """

    cpu: float | str | None = None
    memory: int | str = 0
    gpu: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.cpu, str):
            object.__setattr__(self, "cpu", read_cores(self.cpu))
        elif self.cpu is not None:
            object.__setattr__(self, "cpu", cores_of(check_millicores("cpu", self.cpu, none="the default")))
        object.__setattr__(self, "gpu", check_whole_number("gpu", self.gpu, most=MAX_INT32))
        size = _check_bytes("memory", self.memory)
        if not isinstance(self.memory, str):
            object.__setattr__(self, "memory", size)

    @classmethod
    def given(cls, resources: ResourceSpec | Mapping[str, float | str | None] | None) -> ResourceSpec:
        """Return the resources in an argument, which is a `ResourceSpec`, a mapping such as `{"cpu": 1}`, or None.

        Raises:
            InvalidArgumentError: (a `ValueError`) The mapping has an unknown key, or an amount that is not valid.
        """
        if resources is None or isinstance(resources, ResourceSpec):
            return resources or cls()
        known = [field.name for field in fields(cls)]
        if not isinstance(resources, Mapping):
            refuse("resources", 'a ResourceSpec, a mapping such as {"cpu": 1, "memory": "2GiB"}, or None', resources)
        for key in resources:
            if key not in known:
                near = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=0.5)
                advice = f"did you mean {near[0]!r}?" if near else "expected 'cpu', 'memory' or 'gpu'"
                raise InvalidArgumentError(f"resources must not have the key {quoted(key)}: {advice}")
        return cls(**dict(resources))  # type: ignore[arg-type] # each amount is checked by the class

    @property
    def cpu_millicores(self) -> int | None:
        """The cores in thousandths of a core, or None if `cpu` was not given."""
        # `cpu` is not a text here, because `__post_init__` has replaced a text by a number.
        return None if self.cpu is None else round(float(self.cpu) * MILLICORES)

    @property
    def memory_bytes(self) -> int:
        """The memory in bytes."""
        return parse_bytes(self.memory)


_BYTES = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?:([KMGT])(i?))?B?\s*", re.IGNORECASE | re.ASCII)


def parse_bytes(size: int | str) -> int:
    """Return a size in bytes, from a whole number or from text such as `"500K"`, `"512MB"` (10**6) or `"2GiB"` (2**30).

    Raises:
        InvalidArgumentError: The size has another form, is negative, or is larger than 2**63 - 1 bytes.
    """
    return _check_bytes("a size", size)


def _check_bytes(name: str, size: object) -> int:
    accepted = f"a number of bytes from 0 to {MAX_INT64}, or text such as '512MB' or '2GiB'"
    if isinstance(size, str):
        number = _read_size(size)
        if number is None or number > MAX_INT64:
            refuse(name, accepted, size)
        return number
    return check_whole_number(name, size, accepted=accepted)


def _read_size(text: str) -> int | None:
    match = _BYTES.fullmatch(text)
    if match is None:
        return None
    number, unit, binary = match.groups()
    power = " KMGT".index(unit.upper()) if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


@dataclass(frozen=True)
class Entrypoint:
    """What each task of a job executes: a command, or a callable with its arguments. Create an entrypoint with
    `from_callable` or `from_command`.
    """

    command: tuple[str, ...] = ()
    callable: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        args = check_items("args", self.args, "a list of the callable's arguments")
        kwargs = check_keyword_arguments("kwargs", self.kwargs)
        if self.callable is not None:
            check_callable("callable", self.callable)
            if self.command:
                refuse("command", "empty if there is a callable", self.command)
        else:
            if args or kwargs:
                raise InvalidArgumentError(
                    "args and kwargs need a callable: put the arguments of a command into its list of words"
                )
            object.__setattr__(self, "command", _check_command(self.command))
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)

    @classmethod
    def from_callable(cls, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Entrypoint:
        """Return an entrypoint that calls `function(*args, **kwargs)`. The return value is the task's result.

        Raises:
            InvalidArgumentError: The function cannot be called.
        """
        if not callable(function):
            refuse("function", "a function or another callable", function)
        return cls(callable=function, args=args, kwargs=kwargs)

    @classmethod
    def from_command(cls, command: Sequence[str]) -> Entrypoint:
        """Return an entrypoint that executes a program, for example `["python", "train.py"]`, without a shell.

        Raises:
            InvalidArgumentError: The command is empty, is one string instead of a list, or contains other values than
                strings.
        """
        return cls(command=_check_command(command))

    @property
    def default_name(self) -> str:
        """The beginning of the name of a job without a name: the name of the function or the program."""
        if self.command:
            text = os.path.basename(self.command[0])
            scripts = [word for word in self.command[1:] if word.endswith((".py", ".sh"))]
            if scripts and re.fullmatch(r"python[0-9.]*|uv|sh|bash", text):
                text = os.path.basename(scripts[0]).rsplit(".", 1)[0]
        else:
            text = getattr(self.callable, "__name__", type(self.callable).__name__)
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:100].strip("-.").lower() or "job"


def _check_command(command: object) -> tuple[str, ...]:
    if isinstance(command, str | bytes):
        raise InvalidArgumentError(
            f"a command must be a list of words, got {quoted(command)}, which is one string: write"
            " ['python', 'train.py'], or ['sh', '-c', '…'] for a shell's"
        )
    accepted = "a callable, or a command as a list of words such as ['python', 'train.py']"
    words = tuple(
        os.fspath(word) if isinstance(word, os.PathLike) else word
        for word in check_items("entrypoint", command, accepted)
    )
    if not words or not words[0]:
        raise InvalidArgumentError("a command must not be empty")
    for word in words:
        if not isinstance(word, str) or "\0" in word:
            refuse("each word of a command", "text without NUL", word)
        check_utf8("each word of a command", word)
    return words


@dataclass(frozen=True)
class JobInfo:
    """What a task knows about itself, from the `IRIS_*` variables that its worker set.

    Attributes:
        job_id: The id of the job.
        task_id: The id of the task, `"{job_id}/task-{index}"`.
        task_index: The index of the task, from 0.
        num_tasks: The number of tasks in the job.
        attempt_id: The id of the attempt, from 0. Each retry has the next id.
        worker_id: The id of the worker that runs the attempt.
        controller_address: The address to which `IrisClient.remote()` connects.
        ports: The task's ports, by their names in lower case.
        hosts_file: The file with the hosts of the gang's tasks, or None for independent tasks.
    """

    job_id: str
    task_id: str | None = None
    task_index: int = 0
    num_tasks: int = 1
    attempt_id: int = 0
    worker_id: str | None = None
    controller_address: str | None = None
    ports: dict[str, int] = field(default_factory=dict)
    # A comparison of two `JobInfo` objects ignores the path of the hosts file, because the path does not identify a
    # task.
    hosts_file: str | None = field(default=None, compare=False)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of the gang's tasks, in the order of the task indices. A host is a name or an address by which the
        other tasks reach the task. The hosts are read from `hosts_file` each time. The result is empty for independent
        tasks.

        Raises:
            InvalidArgumentError: (a `ValueError`) The file cannot be read, or does not have a line for each task.
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
                f"{HOSTS_VARIABLE}={self.hosts_file!r} has {counted(len(hosts), 'line')}: expected one host for each of"
                f" {counted(self.num_tasks, 'task')}"
            )
        return hosts

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> JobInfo | None:
        """Return the information in the `IRIS_*` variables, or None outside a job, where `IRIS_JOB_ID` is not set.

        Args:
            env: The environment to read. The default is `os.environ`.

        Raises:
            InvalidArgumentError: (a `ValueError`) A variable is malformed; the text names the variable.
        """
        if env is None:
            env = os.environ
        if not isinstance(env, Mapping):
            refuse("env", "a mapping of text to text, or None for os.environ", env)
        for name, value in env.items():
            if not isinstance(name, str) or (name.startswith("IRIS_") and not isinstance(value, str)):
                refuse("env", "a mapping of text to text, or None for os.environ", {name: value})
        job_id = env.get("IRIS_JOB_ID")
        if not job_id:
            return None
        check_utf8("IRIS_JOB_ID", job_id)
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


def _whole_number(env: Mapping[str, str], name: str, *, default: int, low: int, high: int = MAX_INT32) -> int:
    text = env.get(name)
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InvalidArgumentError(f"{name}={quoted(text)}: expected a whole number from {low} to {high}")
    return value


def get_job_info() -> JobInfo | None:
    """Return information about the task that runs this code, or None outside a job.

    Raises:
        InvalidArgumentError: (a `ValueError`) An `IRIS_*` variable is malformed; the text names the variable.
    """
    return JobInfo.from_env()

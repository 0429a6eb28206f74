"""Every argument of every public method is checked before anything is sent.

The methods are found by introspection, and their arguments in `WRONG`: a new argument without an entry there fails
here. The clients call an address where nobody listens, so a call that is sent is another error.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import httpx
import pytest

import iris.cluster.types
from iris.client import IrisClient, Job, Task
from iris.client.logs.read_options import LogArguments, TreeLogArguments
from iris.client.logs.streams import LogStream
from iris.cluster.client.contexts.context_file import Context, change_contexts
from iris.cluster.client.local_client import LocalClusterClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import Entrypoint, JobInfo, ResourceSpec
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2

NOBODY = "127.0.0.1:1"
BEYOND_INT32, BEYOND_INT64 = 2**31, 2**63

NO_TEXT = [5, b"bytes", 1.5, True, ["a"], {"a": "b"}, object(), "caf\udce9"]
NO_ID = ["", None, *NO_TEXT]
NO_NAME = ["", " ", "\u200b", "\u3164", "a\u00a0b", "cafe\u0301", *NO_TEXT]
NO_NUMBER = ["1", 1.5, 2.0, True, -1, [1], {"a": 1}, math.nan, math.inf, Decimal(1), object(), 10**5000]
NO_INT32 = [*NO_NUMBER, BEYOND_INT32]
NO_INT64 = [*NO_NUMBER, BEYOND_INT64]
NO_SECONDS = ["1", True, -1, -0.1, [1], {"a": 1}, math.nan, -math.inf, Decimal("nan"), -(10**400), 1j, object()]


class AsyncTransport(httpx.AsyncBaseTransport):
    """A transport that only an async client can use."""


NO_FLAG = ["no", 0, 1, None, [], object()]
NO_CALLABLE = [5, "print", True, [print], object()]
NO_PATH = ["", "a\0b", 5, b"bytes", True, ["a"], {"a": "b"}, object(), "caf\udce9"]
NO_LIST = ["abc", b"abc", 5, True, {"x": 1}, object()]
NO_NAMES = [*NO_LIST, None, [5], [None], ["http", b"x"], ["caf\udce9"]]
NO_TEXT_MAPPING = ["a=b", 5, True, ["a"], [("a", "b")], {"a": 1}, {1: "a"}, {"a": None}, {"a": "caf\udce9"}, object()]
NO_MESSAGE = [5, "x", None, {}, cluster_pb2.Empty(), object()]
NO_INDICES = [*NO_LIST, [], [-1], ["0"], [1.5], [True], [BEYOND_INT32]]
NO_EXIT_CODES = [*NO_LIST, [0], [256], ["1"], [1.5], [True], [75]]  # The code 75 alone is valid only with retries.
NO_PAIR = [5, "ab", ("a",), ("a", "b", "c"), ("a", 5), object()]

# By the argument's name, or by class, method and name where the name means something else there.
WRONG: dict[str, list[Any]] = {
    "job_id": NO_ID,
    "IrisClient.from_context.name": NO_ID,  # Any other text names an unknown context.
    "types.make_task_id.job_id": NO_ID[:-1],  # The function sends nothing, so any text is valid.
    "RemoteClusterClient.register_endpoint.job_id": NO_ID[1:],  # An empty text means no job.
    "task_id": [*NO_ID, "x", "x/task-", "task-0", "x/7"],
    "task_index": [*NO_INT32, None],
    "IrisClient.terminate.task_index": NO_INT32,
    "stream_task_index": NO_INT32,
    "IrisClient.outputs.task_index": NO_INT32,
    "IrisClient.usage.task_index": NO_INT32,
    "IrisClient.stacks.task_index": NO_INT32,
    "IrisClient.profile.task_index": NO_INT32,
    "duration_s": [*NO_INT32, 0, 86_401, None],
    "watch_hang": [*NO_SECONDS, BEYOND_INT32, 1e300, math.inf],
    "hang_action": ["", "kill", "END", None, 5, True, [], ["end"], object()],
    "variables": NO_FLAG,
    "idle": NO_FLAG,
    "rate": [*NO_INT32, 0, 1001, None],
    "RemoteClusterClient.sample_stacks.rate": [*NO_INT32, 1001, None],
    "RemoteClusterClient.sample_stacks.seconds": [*NO_INT32, 0, 11, None],
    "RemoteClusterClient.get_usage.task_indices": [value for value in NO_INDICES if value != []],
    "IrisClient.events.job_id": [value for value in NO_ID if value is not None],
    "RemoteClusterClient.watch_events.job_id": [value for value in NO_ID if value is not None],
    "kinds": [*NO_NAMES, ["job.fail"], [""]],
    "worker_ids": NO_NAMES,
    "max_points": [*NO_INT32, 1001],
    "task_indices": NO_INDICES,
    "path": [*NO_TEXT, None, "/etc/passwd", "../x", "a/../x"],
    "to": [5, True, ["a"], object(), None, ""],
    "source": [5, True, ["a"], object(), None, ""],
    "outputs": [*NO_NAMES, ["/tmp"], ["."], ["*.csv"], ["a", "a/b"]],
    "all_attempts": NO_FLAG,
    "recursive": NO_FLAG,
    "attempt_id": NO_INT32,
    "start_ms": [*NO_INT64, None],
    "end_ms": [*NO_INT64, None],
    "max_lines": [*NO_INT32, None],
    "tail": NO_INT32,
    "cursor": NO_TEXT,
    "sources": [*NO_NAMES, ["stdin"], [""]],
    "regex": [*NO_TEXT, None],
    "route": [*NO_TEXT, "direct", "", None],
    "patience_s": NO_SECONDS,
    "on_notice": NO_CALLABLE,
    "on_progress": NO_CALLABLE,
    "loads": [*NO_CALLABLE, None],
    "on_silence": [*NO_CALLABLE, None],
    "follow": NO_FLAG,
    "partial": NO_FLAG,
    "timeout": NO_SECONDS,
    "IrisClient.run.timeout": [*NO_SECONDS, BEYOND_INT32, 10**400],
    "timeout_s": NO_SECONDS,
    "RemoteClusterClient.__init__.timeout_s": [*NO_SECONDS, 0],
    "seconds": [*NO_SECONDS, None, math.inf],
    "poll_interval": [*NO_SECONDS, None, 0, math.inf],
    "longest_pause_s": [*NO_SECONDS, None, 0, math.inf],
    "stream_logs": NO_FLAG,
    "raise_on_failure": NO_FLAG,
    "return_exceptions": NO_FLAG,
    "IrisClient.run.inputs": [5, "abc", [1], ["a\0b"], []],
    "inputs": [5, "abc", b"abc", None],
    "order": NO_FLAG,
    "star": NO_FLAG,
    "include_result": NO_FLAG,
    "failed_only": NO_FLAG,
    "submission": NO_MESSAGE,
    "kept_variables": NO_NAMES,
    "without_tasks": NO_FLAG,
    "progress": [value for value in NO_FLAG if value is not None],
    "include_tasks": NO_FLAG,
    "same_user": NO_FLAG,
    "http2": [flag for flag in NO_FLAG if flag is not None],
    "transport": [5, "http://proxy", object(), httpx.HTTPTransport, httpx.Client(), AsyncTransport()],
    "coscheduled": NO_FLAG,
    "handle": [5, "x", object()],
    "entrypoint": [[], "python train.py", b"python", 7, None, [""], ["a", 1], ["a\0b"], {"a": 1}, {"a"}, object()],
    "args": [*NO_LIST, {1, 2}, None],
    "kwargs": ["abc", 5, True, ["a"], {1: 2}, object()],
    "Entrypoint.__init__.kwargs": ["abc", 5, True, ["a"], {1: 2}, None, object()],
    "name": NO_NAME,
    "IrisClient.run.name": [*NO_NAME, "a/b"],
    "IrisClient.web_link.job_id": [value for value in NO_ID if value is not None],
    "Entrypoint.__init__.command": [[], "python train.py", 7, None, [""], ["a", 1], {"a": 1}, object()],
    "command": [[], "python train.py", 7, None, [""], ["a", 1], {"a": 1}, object()],
    "callable": [5, "x", object()],
    "function": [5, "x", None, object()],
    "replicas": [*NO_INT32, 0, None],
    "max_parallel": [*NO_INT32, 0],
    "resources": [5, "cpu=1", True, ["cpu"], {"cpus": 1}, {"cpu": -1}, {"cpu": BEYOND_INT32}, {1: 1}, {"gpu": None}],
    "cpu": [-1, 0.0001, "two", "-1", "0.5m", "", True, [1], {"a": 1}, math.nan, math.inf, 1j, object(), 2**31],
    "gpu": [*NO_INT32, None],
    "memory": [*NO_INT64[1:], None, "lots", "", "-1GB", "99999999999T"],
    "size": [*NO_INT64[1:], None, "lots", "", "-1GB", "99999999999T"],
    **{f"{name}.open_exec.size": [5, "80x24", (24,), (0, 80), (24, "80")] for name in ("IrisClient", "Task")},
    "stdin": NO_FLAG,
    **{f"{name}.exec.stdin": ["text", 5, True, ["a"], object()] for name in ("IrisClient", "Task")},
    "tty": NO_FLAG,
    "env": NO_TEXT_MAPPING,
    "JobInfo.from_env.env": [5, "x", ["a"], {1: "a"}, {"IRIS_JOB_ID": 5}, {"IRIS_JOB_ID": "a", "IRIS_TASK_ID": None}],
    "constraints": [*NO_TEXT_MAPPING, {"a": ""}, {"": "a"}, {"a b": "c"}],
    "metadata": NO_TEXT_MAPPING,
    "ports": [*NO_NAMES, {"http": 8080}, ["a b"], [""], ["1st"]],
    "workspace": [*NO_PATH, "/no/such/folder"],
    "working_directory": NO_PATH,
    "placement": [*NO_TEXT, "", "apart"],
    "rendezvous": [*NO_TEXT, "", "mpi"],
    "if_exists": [*NO_TEXT, "", "overwrite", None],
    "max_task_failures": [*NO_INT32, None],
    "max_retries_failure": [*NO_INT32, None],
    "max_retries_preemption": [*NO_INT32, None],
    "scheduling_timeout": [*NO_SECONDS, BEYOND_INT32, 1e300],
    "job_timeout": [*NO_SECONDS, BEYOND_INT32, 1e300],
    "retry_pause": [*NO_SECONDS, None, 61, math.inf],
    "kill_grace_period": [*NO_SECONDS, None, 1e8, math.inf],
    "max_log_bytes": [*NO_INT64, None],
    "inherit_env": NO_FLAG,
    "profile_memory": NO_FLAG,
    "after": [*NO_LIST[:4], None, object(), [""], [5], [None], {"a": "some"}, {"a": None}, {5: "ok"}],
    "retry_on": NO_EXIT_CODES,
    "fail_on": NO_EXIT_CODES,
    "timeout_warning": [*NO_SECONDS, BEYOND_INT32, 1e300],
    "address": ["", *NO_TEXT, "nowhere", "host:port:more"],
    "controller_address": ["", None, *NO_TEXT, "nowhere"],
    "RemoteClusterClient.register_endpoint.address": ["", None, *NO_TEXT],
    "IrisClient.register_endpoint.address": ["", None, 80, *NO_TEXT],
    "RemoteClusterClient.reaches_worker.address": [None, *NO_TEXT],
    "RemoteClusterClient.lost_worker.address": [None, *NO_TEXT],
    "worker_id": [None, *NO_TEXT],
    "worker": NO_PAIR,
    "workers": [*NO_INT32, 0, None, 100_000],
    "RemoteClusterClient.find_routes.workers": [*NO_LIST, None, [("a",)], [5], ["ab"]],
    "endpoint_id": NO_ID,
    "token_id": NO_ID,
    "prefix": [None, *NO_TEXT],
    "role": NO_ID,
    "ttl_seconds": [*NO_INT64, None],
    "request_id": [None, *NO_TEXT],
    "token": [5, b"bytes", True, ["a"], object(), "caf\udce9"],
    "ca": NO_PATH,
    "cert": [*NO_PATH, ("a",), ("a", 5), ("", "b"), ("a", "b", "c")],
    "request": NO_MESSAGE,
    "attempt": NO_MESSAGE,
    "wanted": NO_MESSAGE,
    "cluster": [None, 5, NOBODY, object()],
    "state": ["RUNNING", None, 1.5, True, object(), BEYOND_INT32],
    "surroundings": [5, "x", True, {"PATH": "/bin"}, object()],
    "data": ["text", None, 5, bytearray(b"x"), object()],
    "position": [*NO_INT64, None],
    "end": NO_FLAG,
    "id_prefix": [*NO_TEXT, None],
    "id_contains": [*NO_TEXT, None],
    "owner": [*NO_TEXT, None],
    "states": [*NO_LIST, None, ["DONE"], [""], [1.5], [None], ["UNSPECIFIED"], [0]],
    "since_ms": [*NO_INT64, None],
    "until_ms": [*NO_INT64, None],
    "newest_first": NO_FLAG,
    "limit": [*NO_INT32, 0],
    "port": ["80", "a b", "", 0, 65536, *[value for value in NO_NUMBER if value != "1"]],
    "local_port": [*NO_NUMBER, 65536, None],
    "local_host": ["", None, *NO_TEXT],
}
# Right values for the arguments that a call has to have.
RIGHT: dict[str, Any] = {
    "job_id": "train",
    "port": 8000,
    "data": b"x",
    "position": 0,
    "task_index": 0,
    "task_id": "train/task-0",
    "path": "x",
    "to": ".",
    "source": ".",
    "RemoteClusterClient.read_task_file.request": cluster_pb2.ReadTaskFileRequest(),
    "RemoteClusterClient.write_task_file.request": cluster_pb2.WriteTaskFileRequest(),
    "entrypoint": ["true"],
    "name": "train",
    "address": NOBODY,
    "controller_address": NOBODY,
    "endpoint_id": "e",
    "token_id": "t",
    "role": "user",
    "worker_id": "w",
    "workers": [],
    "attempt": cluster_pb2.TaskAttempt(),
    "wanted": cluster_pb2.Worker.FetchLogsFilter(),
    "RemoteClusterClient.resubmit_job.submission": cluster_pb2.Controller.LaunchJobRequest(),
    "RemoteClusterClient.launch_job.request": cluster_pb2.Controller.LaunchJobRequest(),
    "RemoteClusterClient.fetch_log_parts.request": cluster_pb2.FetchLogPartsRequest(),
    "RemoteClusterClient.stream_task_logs.request": cluster_pb2.StreamTaskLogsRequest(),
    "command": ["true"],
    "function": print,
    "inputs": [1],
    "state": 4,
    "size": 1,
    "seconds": 0,
    "cluster": RemoteClusterClient(NOBODY),
    "resources": None,
    "Job.__init__.client": None,
    "Task.__init__.client": None,
}
# What an argument needs beside it to be looked at.
TOGETHER: dict[str, dict[str, Any]] = {
    **{f"IrisClient.remote.{name}": {"address": NOBODY} for name in ("token", "ca", "cert", "http2", "transport")},
    "IrisClient.run.args": {"entrypoint": print},
    "IrisClient.run.max_parallel": {"coscheduled": False},
    "IrisClient.run.inputs": {"coscheduled": False},
    "IrisClient.run.kwargs": {"entrypoint": print},
    "Entrypoint.__init__.args": {"callable": print},
    "Entrypoint.__init__.kwargs": {"callable": print},
    "IrisClient.wait.stream_task_index": {"stream_logs": True},
    "Job.wait.stream_task_index": {"stream_logs": True},
    "RemoteClusterClient.get_usage.task_indices": {"job_id": "train"},
    "LocalClusterClient.get_usage.task_indices": {"job_id": "train"},
}
# Words by which errors name an argument, where they do not use its own name.
SAID_AS: dict[str, tuple[str, ...]] = {
    "entrypoint": ("command", "callable"),
    "ports": ("port name",),
    "path": ("a path",),
    "outputs": ("output",),
    "constraints": ("label",),
    "resources": ("cpu", "gpu"),
    "memory": ("size",),
    "address": ("endpoint", "an address"),
    "controller_address": ("an address",),
    "workers": ("worker",),
    "task_id": ("task id",),
    "job_id": ("task id",),
    "cert": ("certificate", "key"),
    "size": ("a size", "rows", "columns"),
    "states": ("the state",),
}
# Not for users: made by Iris, and called by its own parts.
NOT_PUBLIC = {"LogStream.__init__", "JobInfo.__init__"}
NOT_CHECKED = {"Job.__init__.client", "Task.__init__.client"}
# Python's own protocol.
PROTOCOL = {"__enter__", "__exit__", "__repr__", "__eq__", "__hash__", "__iter__", "__next__"}

CLASSES: list[type] = [
    IrisClient,
    Job,
    Task,
    LogStream,
    RemoteClusterClient,
    LocalClusterClient,
    ResourceSpec,
    Entrypoint,
    JobInfo,
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IrisClient]:
    with IrisClient.remote(NOBODY) as remote, pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        change_contexts(lambda known: known.with_context(Context("train", f"http://{NOBODY}", "token")))
        yield remote


def public_calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each public method and function by its name."""
    for owner in CLASSES:
        for name in sorted(
            {name for base in owner.__mro__ if base.__module__.startswith("iris") for name in vars(base)}
        ):
            method = getattr(owner, name)
            if not callable(method) or name in PROTOCOL or (name.startswith("_") and name != "__init__"):
                continue
            yield f"{owner.__name__}.{name}", method
    for name, function in vars(iris.cluster.types).items():
        if inspect.isfunction(function) and function.__module__ == "iris.cluster.types" and not name.startswith("_"):
            yield f"types.{name}", function


def parameters_of(name: str, call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a call by name; those that it hands on as keywords are its own."""
    found = dict(inspect.signature(call).parameters)
    found.pop("self", None)
    if "arguments" in found and found["arguments"].kind is inspect.Parameter.VAR_KEYWORD:
        del found["arguments"]
        found |= {
            option: inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None)
            for option in (TreeLogArguments if name == "Job.tree_logs" else LogArguments).__annotations__
        }
    return {
        parameter: details
        for parameter, details in found.items()
        if details.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    }


def cases() -> Iterator[Any]:
    for name, call in public_calls():
        if name in NOT_PUBLIC:
            continue
        for parameter in parameters_of(name, call):
            full = f"{name}.{parameter}"
            if full in NOT_CHECKED:
                continue
            yield pytest.param(name, call, parameter, id=full)


def wrong_values(full: str) -> list[Any]:
    inherited = full.replace("LocalClusterClient.", "RemoteClusterClient.")
    for known in (full, inherited, full.rpartition(".")[2]):
        if known in WRONG:
            return WRONG[known]
    pytest.fail(f"{full} has no wrong values in this test: add them, and check the argument")


def owner_of(name: str, client: IrisClient) -> Any:
    """Return what a method is called on."""
    owner, _, method = name.partition(".")
    if method == "__init__" or owner in ("types", "Entrypoint", "JobInfo", "ResourceSpec"):
        return None
    if name in ("IrisClient.remote", "IrisClient.local"):
        return None
    known: dict[str, Any] = {
        "IrisClient": client,
        "Job": Job(client, "train"),
        "Task": Task(client, "train", 0),
        "RemoteClusterClient": client.cluster,
        "LocalClusterClient": client.cluster,
    }
    return known[owner]


def call_with(name: str, call: Callable[..., Any], client: IrisClient, given: Mapping[str, Any]) -> Any:
    """Call with the given arguments, and with right ones for the others that are needed."""
    arguments = dict(given)
    for parameter, details in parameters_of(name, call).items():
        if details.default is inspect.Parameter.empty and parameter not in arguments:
            inherited = name.replace("LocalClusterClient.", "RemoteClusterClient.")
            known = next(key for key in (f"{inherited}.{parameter}", parameter) if key in RIGHT)
            arguments[parameter] = RIGHT[known]
    owner, _, method = name.partition(".")
    if method == "__init__":
        kind: type = next(kind for kind in CLASSES if kind.__name__ == owner)
        return kind(**arguments)
    target = owner_of(name, client)
    function = call if target is None else getattr(target, method)
    positional = [
        arguments.pop(parameter)
        for parameter, details in inspect.signature(function).parameters.items()
        if details.kind is inspect.Parameter.POSITIONAL_ONLY and parameter in arguments
    ]
    return function(*positional, **arguments)


@pytest.mark.parametrize(("name", "call", "parameter"), list(cases()))
def test_error_for_an_invalid_argument_names_the_argument(
    client: IrisClient, name: str, call: Callable[..., Any], parameter: str
) -> None:
    full = f"{name}.{parameter}"
    together = TOGETHER.get(full, {})
    words = (parameter, *SAID_AS.get(parameter, ()))
    for value in wrong_values(full):
        problem = problem_with(lambda value=value: call_with(name, call, client, {**together, parameter: value}))
        assert isinstance(problem, InvalidArgumentError), f"{full}={value!r:.80}: {problem!r}"
        text = str(problem)
        assert any(word in text for word in words), text
        assert len(text) < 600


def problem_with(call: Callable[[], object]) -> object:
    """Return the error that a call raises, or what it answers."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
        return error


@pytest.mark.parametrize(("name", "call"), [pytest.param(name, call, id=name) for name, call in public_calls()])
def test_unknown_keyword_argument_is_a_type_error(client: IrisClient, name: str, call: Callable[..., Any]) -> None:
    if name in NOT_PUBLIC or name in ("Entrypoint.from_callable", "LogStream.close"):
        pytest.skip("takes any keyword, or is called on a stream")
    if name.startswith("LogStream"):
        pytest.skip("a stream needs a cluster")
    with pytest.raises(TypeError, match="no_such_argument"):
        call_with(name, call, client, {"no_such_argument": 1})

"""The async client has the names, signatures and docstrings of the sync client, except where a reason is listed."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys

import pytest

from iris.client import IrisClient, Job, Task
from iris.client.aio import AsyncIrisClient, AsyncJob, AsyncLogStream, AsyncTask
from iris.client.aio.files.outputs import AsyncOutput, AsyncOutputs
from iris.client.aio.logs.tree import AsyncTreeLogStream
from iris.client.aio.maps.map_job import AsyncMapJob
from iris.client.exec.async_process import AsyncExecOutput, AsyncExecProcess
from iris.client.exec.process import ExecOutput, ExecProcess
from iris.client.files.outputs import Output, Outputs
from iris.client.forwarding.async_forward import AsyncForward
from iris.client.forwarding.forward import Forward
from iris.client.logs.streams import LogStream
from iris.client.logs.tree import TreeLogStream
from iris.client.maps.map_job import MapJob
from iris.cluster.client.aio.remote_client import AsyncRemoteClusterClient
from iris.cluster.client.remote_client import RemoteClusterClient

PAIRS = [
    (IrisClient, AsyncIrisClient),
    (Job, AsyncJob),
    (Task, AsyncTask),
    (Output, AsyncOutput),
    (Outputs, AsyncOutputs),
    (MapJob, AsyncMapJob),
    (LogStream, AsyncLogStream),
    (Forward, AsyncForward),
    (ExecProcess, AsyncExecProcess),
    (ExecOutput, AsyncExecOutput),
    (TreeLogStream, AsyncTreeLogStream),
    (RemoteClusterClient, AsyncRemoteClusterClient),
]
# Names that only one of the classes has, with the reason.
ONLY_ASYNC = {
    "AsyncTreeLogStream.aclose": "`contextlib.aclosing` calls this method",
    "AsyncLogStream.aclose": "`contextlib.aclosing` calls this method",
    "AsyncRemoteClusterClient.controller_address": "an attribute of the sync client; a local cluster starts later",
}
# Methods without `async`, although the sync methods make calls.
PLAIN = {
    "stream_task_logs": "returns a stream; the first line is requested later",
    "stream_job_logs": "returns a stream; the first line is requested later",
    "stream_tree_logs": "returns a stream; the first line is requested later",
    "tree_logs": "returns a stream; the first line is requested later",
    "logs": "returns a stream; the first line is requested later",
    "watch_job": "returns an asynchronous iterator",
    "watch_jobs": "returns an asynchronous iterator",
    "watch_events": "returns an asynchronous iterator",
    "events": "returns an asynchronous iterator",
    "map": "submits the job when the iteration begins",
    "starmap": "submits the job when the iteration begins",
    "AsyncMapJob.results": "returns an asynchronous iterator",
    "stream_results": "returns an asynchronous iterator",
    "as_completed": "returns an asynchronous iterator",
    "batches": "returns an asynchronous iterator",
    "raw": "returns an asynchronous iterator",
    "job": "sends nothing, as in the sync client",
    "remote": "sends nothing, as in the sync client",
    "from_context": "sends nothing, as in the sync client",
    "local": "the cluster starts with the first call",
    "flush": "sends nothing, as in the sync client",
    "forward": "returns a context manager; the block sends the first request",
    "open_exec": "returns a context manager; the block sends the first request",
    "address_of": "sends nothing, as in the sync client",
    "lost_worker": "sends nothing, as in the sync client",
}
# Parameters that the async methods do not have.
LACKING = {"handle": "cancelling the task ends the stream"}
# Docstrings that differ, with the reason.
OTHER_DOCUMENTATION = {
    "AsyncIrisClient.local": "the cluster starts later",
    "AsyncIrisClient.remote": "the transports of async clients differ",
    "AsyncIrisClient.close": "there are no threads and no forked processes",
    "AsyncIrisClient.map": "iterating submits the job and raises the errors",
    "AsyncIrisClient.starmap": "iterating submits the job and raises the errors",
    "AsyncIrisClient.stream_task_logs": "iterating raises the errors",
    "AsyncIrisClient.stream_job_logs": "iterating raises the errors",
    "AsyncTreeLogStream.close": "a task waits instead of a thread",
    "AsyncIrisClient.stream_tree_logs": "iterating raises the errors",
    "AsyncLogStream.close": "a task waits instead of a thread",
    "AsyncLogStream.flush": "a task calls instead of a thread",
}


def names(holder: type) -> set[str]:
    """Return the public names of a class without the names of Python's `list`."""
    built_in = dir(list) if issubclass(holder, list) else []
    return {name for name in dir(holder) if not name.startswith("_") and name not in built_in}


CASES = [
    pytest.param(sync, asynchronous, name, id=f"{asynchronous.__name__}.{name}")
    for sync, asynchronous in PAIRS
    for name in sorted(names(sync) & names(asynchronous))
    if callable(getattr(sync, name))
]


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_async_class_has_the_public_names_of_the_sync_class(sync: type, asynchronous: type) -> None:
    assert names(sync) - names(asynchronous) == set()
    others = {f"{asynchronous.__name__}.{name}" for name in names(asynchronous) - names(sync)}
    assert others == {name for name in ONLY_ASYNC if name.startswith(f"{asynchronous.__name__}.")}


def as_sync(text: str) -> str:
    """Return a text of the async client in the words of the sync client."""
    text = text.replace("AsyncBaseTransport", "BaseTransport")
    text = re.sub(
        r"\bAsync(IrisClient|Job|Output|Outputs|MapJob|Task|LogStream|TreeLogStream|Forward|ExecProcess|ExecOutput|Iterator|Generator)\b",
        r"\1",
        text,
    )
    return text.replace("Generator[", "Iterator[")


def without_examples(documentation: str) -> str:
    """Return a docstring without its indented examples, because an example of an async method needs `await`."""
    paragraphs = inspect.cleandoc(documentation).split("\n\n")
    return "\n\n".join(paragraph for paragraph in paragraphs if not paragraph.startswith(" "))


def described(parameter: inspect.Parameter) -> str:
    """Return the name, type and default of a parameter as text."""
    return re.sub(r"<function .*?<lambda> at \w+>", "a lambda", as_sync(f"{parameter.kind}: {parameter}"))


@pytest.mark.parametrize(("sync", "asynchronous", "name"), CASES)
def test_async_method_has_the_signature_of_the_sync_method(sync: type, asynchronous: type, name: str) -> None:
    method, expected = getattr(asynchronous, name), inspect.signature(getattr(sync, name))
    found = inspect.signature(method)
    kept = [p for p in expected.parameters.values() if p.name not in LACKING or p.name in found.parameters]
    assert [described(p) for p in found.parameters.values()] == [described(p) for p in kept]
    assert as_sync(str(found.return_annotation)) == as_sync(str(expected.return_annotation))
    assert inspect.iscoroutinefunction(method) != (name in PLAIN or f"{asynchronous.__name__}.{name}" in PLAIN)


@pytest.mark.parametrize(("sync", "asynchronous", "name"), CASES)
def test_async_method_has_the_docstring_of_the_sync_method(sync: type, asynchronous: type, name: str) -> None:
    found, expected = getattr(asynchronous, name).__doc__, getattr(sync, name).__doc__
    first_line = asynchronous is AsyncRemoteClusterClient  # Its class refers to the sync class for all else.
    texts = [" ".join(as_sync(without_examples(text)).split()) for text in (found, expected)]
    if f"{asynchronous.__name__}.{name}" in OTHER_DOCUMENTATION:
        assert texts[0] != texts[1]
    elif first_line:
        assert texts[1].startswith(texts[0])
    else:
        assert texts[0] == texts[1]


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_async_property_has_the_docstring_of_the_sync_property(sync: type, asynchronous: type) -> None:
    def documented(holder: type) -> dict[str, str]:
        known = {name: vars(kind).get(name) for kind in reversed(holder.mro()) for name in vars(kind)}
        return {
            name: as_sync(value.__doc__ or "")
            for name, value in known.items()
            if isinstance(value, property) and not name.startswith("_") and name in names(sync) & names(asynchronous)
        }

    assert documented(asynchronous) == documented(sync)


def test_import_of_the_sync_client_does_not_import_the_async_client() -> None:
    program = "import sys, iris.client; print([m for m in sys.modules if '.aio' in m])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_import_of_the_async_client_imports_no_server() -> None:
    program = (
        "import sys; sys.modules['httptools'] = None; import iris.client.aio\n"
        "print([m for m in ('uvicorn', 'sqlite3', 'rich', 'click', 're2', 'jwt', 'cryptography', 'iris.server',"
        " 'iris.cluster.controller', 'iris.cluster.worker') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_public_names_of_the_async_package_can_be_imported() -> None:
    package = importlib.import_module("iris.client.aio")
    assert all(hasattr(package, name) for name in package.__all__)

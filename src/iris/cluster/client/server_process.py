"""Starts and stops the server of a cluster on this machine, as a separate process: `python -m iris.server`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iris.arguments import check_whole_number
from iris.cluster.types import MAX_LOCAL_WORKERS, TOKEN_VARIABLE
from iris.config import ClusterConfig
from iris.errors import LocalClusterError, MissingExtraError
from iris.system.inherited import above_standard
from iris.system.private_dir import check_private, make_private, open_private

# How many seconds to wait for the next message of a starting server. On a busy machine, the server may need almost a
# minute before it can load its state. While it loads, it sends a message every second, so the whole start may take much
# longer. A server that cannot start reports its error at once.
_SILENT_S = 60.0
_STOP_S = 30.0
_SHOWN_BYTES = 2000
# The name of the event log in the state directory.
EVENT_LOG = "server.log"
# The key that a starting server uses in its messages about its progress.
LOADING = "loading"


@dataclass(slots=True)
class LocalServer:
    """A server that this process has started.

    Attributes:
        address: The URL of the controller.
        port: The port at which the controller listens.
        process: The running process of the server.
        found: The numbers of jobs and workers that the server found from its earlier runs: `jobs_going_on`,
            `jobs_ended` and `workers_running`.
        token: A token with the role `admin`.
        copied: None, unless the state directory is a copy. `original` is the path of the original directory.
            `jobs_not_taken_over` is the number of unfinished jobs in the original.
        metrics_port: The port of 127.0.0.1 at which the metrics are served without a token; None if there is none.
    """

    address: str
    port: int
    process: subprocess.Popen[bytes]
    found: dict[str, int] = field(default_factory=dict)
    token: str = field(default="", repr=False)
    copied: dict[str, Any] | None = None
    metrics_port: int | None = None

    def stop(self) -> None:
        """Stop the server with SIGTERM. Before the server exits, it ends its jobs and workers, and a temporary server
        removes its state directory. A server that has not exited after 30 seconds is killed.
        """
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def check_server_extra() -> None:
    """Raise MissingExtraError if the extra [server] is not installed."""
    if any(importlib.util.find_spec(module) is None for module in ("uvicorn", "jwt", "cryptography")):
        raise MissingExtraError(what="A cluster on this machine", extra="server")


def start_server(
    config: ClusterConfig,
    *,
    temporary: bool = False,
    ends_with_us: bool = False,
    take_over: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> LocalServer:
    """Start the server of a cluster, and return as soon as the server answers. The start has no time limit while the
    server reports progress.

    Args:
        config: The configuration, with the state directory. The server writes its event log to `server.log` there.
        temporary: Whether to keep jobs in memory only, and to remove the state directory at the end.
        ends_with_us: Whether the server ends when this process ends, even if this process is killed.
        take_over: Whether a copied state directory, for example one that was restored from a backup, replaces its
            original. If True, the original must not be used again.
        on_progress: A function that is called with texts about the progress, for people, if the start takes long.

    Raises:
        FailedPreconditionError: Other users can write in the directory, or another user owns it.
        MissingExtraError: The extra [server] is not installed.
        LocalClusterError: The server did not start. The message contains the reason.
    """
    check_server_extra()
    assert config.state_dir is not None, "a server needs a state directory"
    directory = config.state_dir
    make_private(directory)
    if not temporary:
        check_private(directory)
    messages = directory / EVENT_LOG
    ready, ready_end = (above_standard(end) for end in os.pipe())
    command = _command(config, ready_end, temporary=temporary, ends_with_us=ends_with_us, take_over=take_over)
    try:
        with open(messages, "ab", opener=open_private) as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE},
                pass_fds=(ready_end,),
                # In a session of its own, the server does not receive Ctrl-C from the terminal. This process stops the
                # server.
                start_new_session=True,
            )
    except OSError as error:
        os.close(ready)
        raise LocalClusterError(f"cannot start a cluster on this machine: {error}") from error
    finally:
        os.close(ready_end)
    answer = wait_until_ready(process, ready, on_progress)
    if "address" in answer:
        return _server_of(process, answer)
    process.kill()
    process.wait()
    why = answer.get("error") or f"{answer.get('failure', 'it gave no reason')}\n{_tail(messages)}"
    raise LocalClusterError(f"the cluster on this machine did not start: {why}")


def _server_of(process: subprocess.Popen[bytes], answer: dict[str, Any]) -> LocalServer:
    return LocalServer(
        answer["address"],
        answer["port"],
        process,
        answer.get("found", {}),
        answer["token"],
        answer.get("copied"),
        answer.get("metrics_port"),
    )


def _command(
    config: ClusterConfig, ready_end: int, *, temporary: bool, ends_with_us: bool, take_over: bool
) -> list[str]:
    # Without -P, a file in the current directory could hide a module of Iris or of Python's standard library.
    command = [sys.executable, "-P", "-m", "iris.server", "--config", config.to_json(), "--ready-fd", str(ready_end)]
    command += ["--temporary"] if temporary else []
    command += ["--take-over"] if take_over else []
    command += ["--parent-pid", str(os.getpid())] if ends_with_us else []
    return command


def wait_until_ready(
    process: subprocess.Popen[bytes],
    ready: int,
    on_progress: Callable[[str], None] | None,
    *,
    silent_s: float = _SILENT_S,
) -> dict[str, Any]:
    """Return the message that a starting server sends when it is ready or cannot start. If the server ends or is silent
    before, return a dict in which `failure` says so.

    Args:
        process: The process of the server.
        ready: The descriptor of the pipe from the server. This function closes it.
        on_progress: A function that is called with texts about the progress, for people.
        silent_s: For how many seconds to wait for the next message of the server.
    """
    try:
        while True:
            line = _read_line(ready, silent_s)
            if line is None:
                return {"failure": f"it sent no message for {silent_s:g} s"}
            if not line:
                return {"failure": "it ended before it was ready"}
            answer: dict[str, Any] = json.loads(line)
            if LOADING not in answer:
                break
            if on_progress is not None:
                on_progress(answer[LOADING])
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(ready)
    return answer


class LocalCluster:
    """A cluster on this machine, with temporary files. `LocalClusterClient` documents the argument and the errors."""

    def __init__(self, workers: int) -> None:
        self._workers = check_whole_number("workers", workers, least=1, most=MAX_LOCAL_WORKERS)
        self._owner_pid = os.getpid()
        self._server: LocalServer | None = None

    def start(self) -> LocalServer:
        """Start the cluster. This takes about a second."""
        directory = Path(tempfile.mkdtemp(prefix="iris-"))
        try:
            self._server = start_server(
                ClusterConfig(state_dir=directory, port=0, workers=self._workers), temporary=True, ends_with_us=True
            )
        except BaseException:
            remove_directory(directory)
            raise
        return self._server

    def stop(self) -> None:
        """End all jobs and the cluster. Do nothing in a child process after a fork, or if no cluster is running."""
        if self._server is not None and self._owner_pid == os.getpid():
            self._server.stop()
            self._server = None


def remove_directory(directory: Path) -> None:
    """Remove the state directory of a killed server. Retry, because its workers may write there until they end."""
    end = time.monotonic() + 2.0
    while directory.exists() and time.monotonic() < end:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)


def _read_line(pipe: int, silent_s: float) -> str | None:
    """Return the next line that a starting server sends. Return an empty string if the server ends, and None if no
    whole line arrives within `silent_s` seconds.
    """
    end = time.monotonic() + silent_s
    data = b""
    while not data.endswith(b"\n"):
        readable, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        if not readable:
            return None
        # Only one byte is read at a time, so that no byte of the following message is read.
        chunk = os.read(pipe, 1)
        if not chunk:
            return ""
        data += chunk
    return data.decode()


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").strip()
    return ""

"""Starts a cluster of this machine as a program of its own, `python -m iris.server`, and ends it."""

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
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iris.cluster.types import TOKEN_VARIABLE
from iris.errors import LocalClusterError, MissingExtraError
from iris.system.inherited import above_standard
from iris.system.private_dir import check_private, make_private, open_private

_READY_S = 60.0  # a machine that is busy takes long; one that is broken says so at once
_STOP_S = 30.0
_SHOWN_BYTES = 2000


@dataclass(slots=True)
class LocalServer:
    """A server process that this process has started, where others reach it, and on which port it listens here; `token`
    is an admin's."""

    address: str
    port: int
    process: subprocess.Popen[bytes]
    found: dict[str, int] = field(default_factory=dict)  # jobs_going_on, jobs_ended, workers_running
    token: str = field(default="", repr=False)
    # Of a cluster that has just begun with a copy of a state directory: `original`, where that was, and
    # `jobs_not_taken_over`, how many of its jobs had not ended. None: it is no such copy.
    copied: dict[str, Any] | None = None

    def stop(self) -> None:
        """Ends it gracefully: jobs are ended, workers gone and, where it is temporary, its directory removed."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a cluster keeps logs; what is None, as it does by default.

    Attributes:
        location: A URL to which complete logs are copied, as fsspec takes it.
        keep_s: For how long after its end an attempt's log is kept; inf: for ever.
        keep_bytes: How much of all logs is kept on this machine; inf: all.
        max_bytes: How much of one attempt's log is kept where its job does not say it.
    """

    location: str | None = None
    keep_s: float | None = None
    keep_bytes: float | None = None
    max_bytes: int | None = None

    def arguments(self) -> list[str]:
        """As the server's command line has them."""
        given = {
            "--log-location": self.location,
            "--keep-logs": self.keep_s,
            "--keep-log-bytes": self.keep_bytes,
            "--max-log-bytes": self.max_bytes,
        }
        return [f"{name}={value}" for name, value in given.items() if value is not None]


@dataclass(frozen=True, slots=True)
class EnforceOptions:
    """How a cluster keeps tasks to their limits; what is None, as it does by default.

    Attributes:
        enforce: `auto`: by cgroups where that is possible, else by watching. `watch`: by watching. `none`: not at all.
        max_processes: How many processes and threads an attempt may have; 0: any number.
    """

    enforce: str | None = None
    max_processes: int | None = None

    def arguments(self) -> list[str]:
        """As the server's command line has them."""
        given = {"--enforce": self.enforce, "--max-processes": self.max_processes}
        return [f"{name}={value}" for name, value in given.items() if value is not None]


@dataclass(frozen=True, slots=True)
class DoorOptions:
    """Who is let in, and how; what is empty, as it is by default.

    Attributes:
        tls_cert: A file with the certificate that is shown, in PEM; without it there is no TLS.
        tls_key: A file with its key.
        client_ca: A file with the certificates by which those of clients have to be signed.
        insecure_no_tls: Whether other machines may come without TLS.
    """

    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    insecure_no_tls: bool = False

    def arguments(self) -> list[str]:
        """As the server's command line has them."""
        files = {"--tls-cert": self.tls_cert, "--tls-key": self.tls_key, "--client-ca": self.client_ca}
        words = [f"{name}={os.path.abspath(path)}" for name, path in files.items() if path]
        return [*words, *(["--insecure-no-tls"] if self.insecure_no_tls else [])]


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """Where a cluster's tasks run, and where it is itself.

    Attributes:
        advertise: The host, the host and port, or the URL by which others reach it; empty: where it is bound.
        labels: What this machine is labelled with, as `KEY=VALUE`.
        engine: What gives places to run.
        ray_address: Where Ray is, for the engine of that name; empty: on this machine.
        slurm_options: What Slurm's sbatch is given.
    """

    advertise: str = ""
    labels: tuple[str, ...] = ()
    engine: str = "local"
    ray_address: str = ""
    slurm_options: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """As the server's command line has them."""
        given = {"--advertise": self.advertise, "--engine": self.engine, "--ray-address": self.ray_address}
        words = [f"{name}={value}" for name, value in given.items() if value]
        words += [f"--slurm-option={option}" for option in self.slurm_options]
        return words + [f"--label={label}" for label in self.labels]


def check_server_extra() -> None:
    """Raise MissingExtraError where the extra [server] is not installed."""
    if any(importlib.util.find_spec(module) is None for module in ("uvicorn", "psutil", "jwt", "cryptography")):
        raise MissingExtraError("A cluster on this machine", "server")


def start_server(
    directory: Path,
    *,
    workers: int | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    temporary: bool = False,
    ends_with_us: bool = False,
    lease_s: float | None = None,
    logs: LogOptions | None = None,
    enforcement: EnforceOptions | None = None,
    limits: Mapping[str, int] | None = None,
    door: DoorOptions | None = None,
    place: PlaceOptions | None = None,
    take_over: bool = False,
) -> LocalServer:
    """Starts a cluster, and returns once it answers.

    Args:
        directory: Where everything of it is kept, its messages in `server.log`.
        workers: How many workers share the machine; None: one.
        host: The address to bind to.
        port: 0 takes a free one.
        temporary: Jobs are kept in memory only, and the directory is removed at the end.
        ends_with_us: It ends when this process does, however that happens.
        lease_s: How long a worker may be silent until it is declared lost.
        logs: How logs are kept.
        enforcement: How tasks are kept to their limits.
        limits: What each user may have at the same time: `jobs`, `tasks` of jobs that have not ended, `streams`.
        door: TLS; None: none, and for this machine only.
        place: Where tasks run, and where it is itself.
        take_over: The directory was moved or restored, and its original will not run again: go on as it.

    Raises:
        FailedPreconditionError: Other users can write in the directory, or it is another user's.
        MissingExtraError: The extra [server] is not installed.
        LocalClusterError: It did not start; the text says why.
    """
    check_server_extra()
    make_private(directory)
    if not temporary:  # nobody else had a hand in that one
        check_private(directory)  # before anything is opened in it
    messages = directory / "server.log"
    ready, ready_end = (above_standard(end) for end in os.pipe())
    # -P: the current folder is the user's; a file in it that is named like one of ours, or of Python's, is not for us.
    command = [sys.executable, "-P", "-m", "iris.server", "--directory", str(directory), "--host", host]
    command += ["--port", str(port), "--ready-fd", str(ready_end)]
    command += ["--workers", str(workers)] if workers is not None else []
    command += ["--temporary"] if temporary else []
    command += ["--take-over"] if take_over else []
    command += ["--parent-pid", str(os.getpid())] if ends_with_us else []
    command += ["--lease", str(lease_s)] if lease_s is not None else []
    command += logs.arguments() if logs is not None else []
    command += enforcement.arguments() if enforcement is not None else []
    command += [f"--max-{what}-per-user={number}" for what, number in (limits or {}).items()]
    command += door.arguments() if door is not None else []
    command += place.arguments() if place is not None else []
    try:
        with open(messages, "ab", opener=open_private) as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE},
                pass_fds=(ready_end,),
                start_new_session=True,  # a terminal's Ctrl-C is for us: we decide what it means for the cluster
            )
    except OSError as error:
        os.close(ready)
        raise LocalClusterError(f"cannot start a cluster on this machine: {error}") from error
    finally:
        os.close(ready_end)
    try:
        answer = json.loads(_read_line(ready) or "{}")
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(ready)
    if "address" in answer:
        return LocalServer(
            answer["address"], answer["port"], process, answer.get("found", {}), answer["token"], answer.get("copied")
        )
    process.kill()
    process.wait()
    why = answer.get("error") or f"it ended before it was ready\n{_tail(messages)}"
    raise LocalClusterError(f"the cluster on this machine did not start: {why}")


def remove_directory(directory: Path) -> None:
    """Removes what a server leaves that was killed: its workers end by themselves, and may write until they have."""
    end = time.monotonic() + 2.0
    while directory.exists() and time.monotonic() < end:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)


def _read_line(pipe: int) -> str:
    """The line that the server writes when it is ready; empty when it ends, or the time does, before that."""
    end = time.monotonic() + _READY_S
    data = b""
    while not data.endswith(b"\n"):
        readable, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(pipe, 65536) if readable else b""
        if not chunk:
            return ""
        data += chunk
    return data.decode()


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").strip()
    return ""

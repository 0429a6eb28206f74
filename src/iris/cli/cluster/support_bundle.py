"""Collects the files of `iris debug bundle`, from which a developer can find the cause of a problem in a cluster.

Each file of the bundle is collected independently. If a file cannot be collected, for example because the server is
dead, `notes.txt` contains the reason. No secret enters the bundle: `redact` removes tokens and keys from every file.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import signal
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from iris import versions
from iris.cli.cluster.cluster_record import Record, is_running
from iris.cluster.client.server_process import EVENT_LOG
from iris.cluster.types import TOKEN_VARIABLE, state_name
from iris.errors import IrisError
from iris.rpc.auth.credentials import KEY_FILE, TOKEN_FILE
from iris.rpc.http.tls import PART_FILE
from iris.system.private_dir import open_private

if TYPE_CHECKING:
    from iris.client import IrisClient

_SERVER_LOG_BYTES = 2 << 20  # A bundle contains at most the last 2 MiB of the server's event log.
_WORKER_LOG_BYTES = 256 << 10
_MAX_WORKERS = 64
_DUMP_S = 2.0
_PAUSE_S = 0.02
# A line of a secret file counts as a secret only if it has at least this many characters. A shorter line may be an
# ordinary word.
_MIN_SECRET = 8
_LIBRARIES = (
    "connectrpc",
    "protobuf",
    "pyqwest",
    "httpcore",
    "h2",
    "httpx",
    "uvicorn",
    "click",
    "rich",
    "ray",
    "cloudpickle",
)
_HIDDEN = "[removed]"
_SECRETS = (
    (re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]+"), _HIDDEN),  # A token of Iris is a JSON Web Token.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL), _HIDDEN),
    (re.compile(r"(?<=://)[^\s/@\"']+@"), f"{_HIDDEN}@"),  # A URL may contain a user and a password.
    (re.compile(r"(?i)\b(authorization|password|secret|api_key|access_key)(\W{1,4})[^\s\",]+"), rf"\1\2{_HIDDEN}"),
)
_README = """\
This bundle was made by `iris debug bundle`. It contains no tokens and keys, no code, and no output of tasks.
The event logs and machines.json name jobs, users, machines and addresses: look at them before you pass the bundle on.

versions.json   the versions of Iris, Python, its libraries and the system
config.json     the configuration of the cluster
states.json     how many jobs and tasks are in which state
machines.json   the machines, and what waits for them
events/         the last part of the event logs of the controller and of the workers on this machine
notes.txt       what could not be collected, and why
"""


class BundleFiles:
    """The files of a bundle, and notes about files that could not be collected.

    Args:
        secrets: The secret texts, which must not appear in the bundle.

    Attributes:
        files: The content of each file, by its name in the bundle.
        notes: One note for each file that could not be collected, with the reason.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secrets)
        self.files: dict[str, str] = {}
        self.notes: list[str] = []

    def add(self, name: str, make: Callable[[], str]) -> None:
        """Add a file to the bundle, with its secrets replaced. If the file cannot be made, add a note."""
        try:
            self.files[name] = redact(make(), self._secrets)
        except (IrisError, OSError) as error:
            self.notes.append(redact(f"{name}: {error}", self._secrets))

    def add_json(self, name: str, make: Callable[[], Any]) -> None:
        """Add a file in JSON."""
        self.add(name, lambda: json.dumps(make(), indent=2, ensure_ascii=False) + "\n")

    def write(self, path: Path) -> None:
        """Write all files into a gzipped tar archive that only this user can read.

        Raises:
            OSError: The archive cannot be written.
        """
        folder = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
        files = {"README.txt": _README, **self.files, "notes.txt": "".join(f"{note}\n" for note in self.notes)}
        with open(path, "wb", opener=open_private) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in files.items():
                data = text.encode(errors="backslashreplace")
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(path.stat().st_mtime)
                archive.addfile(entry, io.BytesIO(data))


_SECRET_FILES = (TOKEN_FILE, KEY_FILE, PART_FILE, "webhook.secret")


def collect(record: Record | None, connect: Callable[[], IrisClient]) -> BundleFiles:
    """Collect the files of a bundle about a cluster.

    Args:
        record: The record of the cluster of `iris up` on this machine, or None for a cluster elsewhere.
        connect: A function that returns a client of the cluster, or raises IrisError if the cluster is unreachable.
    """
    files = BundleFiles(_known_secrets(None if record is None else record.state_dir))
    files.add_json("versions.json", _versions)
    state_dir = None
    if record is not None:
        state_dir = record.state_dir
        files.add_json("config.json", lambda: _redacted_config(record))
        if is_running(record):
            _dump_stacks(record.pid, state_dir / EVENT_LOG)
        else:
            files.notes.append("the server of this cluster does not run")
        _add_event_logs(files, state_dir)
    _add_answers(files, state_dir, connect)
    return files


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a text in which tokens, keys and passwords are replaced by "[removed]".

    Args:
        text: The text that may contain secrets.
        secrets: Known secrets. Other parts of the text that look like secrets are replaced, too.
    """
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _add_answers(files: BundleFiles, state_dir: Path | None, connect: Callable[[], IrisClient]) -> None:
    """Add two files to the bundle: the numbers of jobs and tasks by state, and the machines.

    If the controller does not answer, the numbers are read from the database in `state_dir`, and the file about
    machines is missing.
    """
    try:
        with connect() as client:
            files.add_json("states.json", lambda: _states(client))
            files.add_json("machines.json", lambda: _machines(client))
    except IrisError as error:
        files.notes.append(redact(f"the controller was not asked: {error}", ()))
    if state_dir is not None and "states.json" not in files.files:
        from iris.cluster.controller.storage.state_counts import count_states

        files.add_json("states.json", lambda: count_states(state_dir / "controller.db"))


def _states(client: IrisClient) -> dict[str, dict[str, int]]:
    jobs = client.list_jobs()
    tasks: Counter[str] = Counter()
    for job in jobs:
        known = {
            "PENDING": job.tasks_pending,
            "RUNNING": job.tasks_running,
            "SUCCEEDED": job.tasks_succeeded,
            "FAILED": job.tasks_failed,
        }
        known["OTHER"] = job.num_tasks - sum(known.values())
        tasks.update({state: count for state, count in known.items() if count > 0})
    return {"jobs": dict(Counter(state_name(job.state) for job in jobs)), "tasks": dict(tasks)}


def _machines(client: IrisClient) -> Any:
    from iris.cli.output.documents import machines_document

    return machines_document(client.cluster.list_machines())


def _versions() -> dict[str, Any]:
    libraries: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            libraries[name] = None
    return {
        "iris": versions.VERSION,
        "python": sys.version,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": libraries,
    }


def _add_event_logs(files: BundleFiles, state_dir: Path) -> None:
    files.add(f"events/{EVENT_LOG}", lambda: _end_of(state_dir / EVENT_LOG, _SERVER_LOG_BYTES))
    newest = sorted((state_dir / "workers").glob("*.log"), key=lambda path: path.stat().st_mtime)[-_MAX_WORKERS:]
    for path in newest:
        files.add(f"events/workers/{path.name}", partial(_end_of, path, _WORKER_LOG_BYTES))


def _end_of(path: Path, size: int) -> str:
    """Return the last part of a file, beginning with a complete line."""
    with open(path, "rb") as file:
        start = max(0, os.fstat(file.fileno()).st_size - size)
        file.seek(start)
        data = file.read(size)
    return (data.partition(b"\n")[2] if start else data).decode(errors="replace")


def _redacted_config(record: Record) -> dict[str, Any]:
    """Return the configuration of a cluster. The paths of webhooks are left out, because they may be secret."""
    document = record.config.to_document()
    document["webhooks"] = [f"{urlsplit(webhook.url).hostname}/[removed]" for webhook in record.config.webhooks]
    return document


def _known_secrets(state_dir: Path | None) -> list[str]:
    """Return the secrets that this user's files and environment contain."""
    texts = [os.environ.get(TOKEN_VARIABLE, "")]
    paths = [] if state_dir is None else [state_dir / name for name in _SECRET_FILES]
    for path in paths:
        try:
            texts += path.read_text().splitlines()
        except (OSError, ValueError):
            continue
    return [text.strip() for text in texts if len(text.strip()) >= _MIN_SECRET and not text.startswith("-----")]


def _dump_stacks(pid: int, event_log: Path) -> None:
    """Make a running server write the stacks of its threads and asyncio tasks into its event log.

    The stacks of threads are written even if the server's loop is blocked.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        try:
            # A server of an older release has no handler for the signal, and the signal would end this server.
            if not _handles(pid, number):
                continue
            before = event_log.stat().st_size
            os.kill(pid, number)
            end = time.monotonic() + _DUMP_S
            while event_log.stat().st_size == before and time.monotonic() < end:
                time.sleep(_PAUSE_S)
        except OSError:
            return


def _handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has installed a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)

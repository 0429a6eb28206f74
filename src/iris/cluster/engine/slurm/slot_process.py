"""The program that Slurm runs for each slot of a gang, on the slot's machine. The program runs the slot's worker.

The program gang_process.py writes the standard input of this program and reads its output. SIGTERM ends the worker
gracefully: the worker ends its tasks and uploads its logs. SIGUSR2 ends all processes at once and still removes the
scratch directory. After SIGKILL, the next slot process on the machine removes that directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from iris.cluster.engine.worker_process import WorkerProcess, start
from iris.cluster.worker.supervision.worker_identity import event_log_file, identity_file
from iris.system.inherited import reset_signals
from iris.system.locks import try_lock_directory

END_NOW = signal.SIGUSR2
_SHOWN_BYTES = 400
_SLURMS = ("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_", "SALLOC_", "SINFO_", "PMI_", "PMIX_", "PMI2_")
# The name of a scratch directory begins with this text. The number of its user follows.
_DIRECTORY = "iris-slurm-"


def main() -> None:
    """Run the worker of one slot until it ends."""
    reset_signals()
    gang = json.load(sys.stdin)
    rank = int(os.environ["SLURM_PROCID"])
    node = os.environ["SLURMD_NODENAME"]
    asyncio.run(_run(gang, rank, node))


async def _run(gang: Any, rank: int, node: str) -> None:
    stop, end_now = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (END_NOW, end_now)):
        loop.add_signal_handler(number, event.set)
    scratch, lock = _make_scratch()
    try:
        worker_id, secret = gang["workers"][rank]
        arguments = ["--worker-id", worker_id, "--identity-file", str(identity_file(scratch, worker_id))]
        arguments += ["--directory", str(scratch / worker_id), "--parent-pid", str(os.getpid()), *gang["options"]]
        process = start(scratch, worker_id, "", arguments, _environment(), lambda: secret)
        _report("began", rank, node)
        await _until_ended(process, stop, end_now)
        why = _last_words(event_log_file(scratch, worker_id))
    except Exception as error:  # noqa: BLE001 - Every error is reported as the reason of the slot's end.
        why = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)
    _report("ended", rank, f"{why} ({node})")


async def _until_ended(process: WorkerProcess, stop: asyncio.Event, end_now: asyncio.Event) -> None:
    """Wait until the worker and all processes of its attempts have ended. If a signal arrives, end these processes."""
    asked = [asyncio.create_task(event.wait()) for event in (stop, end_now)]
    ending = asyncio.create_task(process.wait())
    await asyncio.wait([ending, *asked], return_when=asyncio.FIRST_COMPLETED)
    if not ending.done():
        ending.cancel()
        # The first wait must have ended before the next begins, because only one asyncio task may wait for the end of
        # the process.
        await asyncio.gather(ending, return_exceptions=True)
        ending = asyncio.create_task(process.stop())
        await asyncio.wait([ending, asked[1]], return_when=asyncio.FIRST_COMPLETED)
    if end_now.is_set():
        process.kill()
    await ending
    for each in asked:
        each.cancel()


def is_slurms(name: str) -> bool:
    """Return whether an environment variable describes a Slurm job or sets an option of Slurm's commands. The result is
    False for SLURM_CONF, which names Slurm's configuration file and is the same for all programs.
    """
    return name != "SLURM_CONF" and name.startswith(_SLURMS)


def _environment() -> dict[str, str]:
    """Return the environment of the worker. The variables of the Slurm job are removed, except variables that name
    visible devices.
    """
    env = {name: value for name, value in os.environ.items() if not is_slurms(name)}
    if env.get("ENVIRONMENT") == "BATCH":
        del env["ENVIRONMENT"]
    return env


def _make_scratch() -> tuple[Path, int]:
    """Create and lock a scratch directory, and delete scratch directories that killed slot processes have left
    unlocked.

    Returns:
        The directory, and the file descriptor that holds its lock.
    """
    place, prefix = Path(tempfile.gettempdir()), f"{_DIRECTORY}{os.getuid()}-"
    for path in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                abandoned = try_lock_directory(path)
                if abandoned is not None:
                    os.close(abandoned)
                    shutil.rmtree(path, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORY}new-", dir=place))
    lock = try_lock_directory(new)
    assert lock is not None, "no other process knows the name of a new directory"
    final = place / f"{prefix}{new.name.rpartition('-')[2]}"
    # Other slot processes delete unlocked directories whose names begin with the prefix. Therefore the directory gets
    # its final name only after it was locked.
    new.rename(final)
    return final, lock


def _last_words(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _report(what: str, rank: int, text: str) -> None:
    # The program that reads the output may have ended, because the Slurm job is being ended. Then the error is ignored.
    with contextlib.suppress(OSError):
        os.write(1, f"{what} {rank} {' '.join(text.split())}\n".encode())


if __name__ == "__main__":
    main()

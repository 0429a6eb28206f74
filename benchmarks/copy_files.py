"""The throughput of `client.upload` and `client.download` of a file of 1 GB, directly to the worker and through the
controller, and the collection of the same file as an output. 1,000 small files are copied as well.

On one machine, all copies share the cores and the disk. The comparison is `cp` of the same file. The largest memory of
the worker, the controller and this program shows that a copy does not load the file.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.measure import show
from iris.client import IrisClient, Task
from iris.cluster.client.server_process import start_server
from iris.config import ClusterConfig

_NAME = "copy_files"
_GB = 10**9
_SMALL_FILES = 1000
_READY = "mkdir small; for i in $(seq 1000); do echo $i > small/$i; done; touch ready; sleep 3600"


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        folder = Path(name)
        source = folder / "source"
        subprocess.run(f"head -c {_GB} /dev/urandom > {source}", shell=True, check=True)
        cp_s = _timed(lambda: subprocess.run(["cp", source, folder / "copy"], check=True))
        show(_NAME, f"cp: {_GB / cp_s / 1e6:,.0f} MB/s")
        (folder / "state").mkdir(mode=0o700)
        config = ClusterConfig(state_dir=folder / "state", port=0, max_output_bytes=2 * _GB)
        server = start_server(config, ends_with_us=True)
        try:
            with IrisClient.remote(server.address, token=server.token) as client:
                job = client.run(["sh", "-c", _READY])
                (task,) = job.tasks()
                while True:
                    try:
                        task.download("ready", folder)
                        break
                    except Exception:  # noqa: BLE001 - The task has not started yet.
                        time.sleep(0.1)
                _copy(client, task, source, folder, "directly")
                for worker in client.cluster.list_workers():
                    client.cluster.lost_worker(worker.address)
                _copy(client, task, source, folder, "through the controller")
                job.terminate()
                _collect(client, source, folder)
                _show_memory(server.process.pid)
        finally:
            server.stop()


def _copy(client: IrisClient, task: Task, source: Path, folder: Path, way: str) -> None:
    up_s = _timed(lambda: task.upload(source, "big"))
    down_s = _timed(lambda: task.download("big", folder / "back"))
    small_s = _timed(lambda: task.download("small/.", folder / f"small {way}"))
    assert _sha256(folder / "back") == _sha256(source)
    show(_NAME, f"{way}: up {_GB / up_s / 1e6:,.0f} MB/s, down {_GB / down_s / 1e6:,.0f} MB/s")
    show(_NAME, f"{way}: {_SMALL_FILES} small files in {small_s:.1f} s, {small_s / _SMALL_FILES * 1000:.1f} ms each")


def _collect(client: IrisClient, source: Path, folder: Path) -> None:
    job = client.run(["cp", str(source), "out/big"], outputs=["out"])
    whole_s = _timed(lambda: job.wait(progress=False))
    down_s = _timed(lambda: job.outputs()[0].download(folder / "output"))
    assert _sha256(folder / "output") == _sha256(source)
    show(_NAME, f"a job that copies 1 GB into its outputs: {whole_s:.1f} s; down {_GB / down_s / 1e6:,.0f} MB/s")


def _show_memory(controller: int) -> None:
    processes = [psutil.Process(), psutil.Process(controller), *psutil.Process(controller).children(recursive=True)]
    peaks = [Path(f"/proc/{process.pid}/status").read_text() for process in processes]
    most = max(int(text.partition("VmHWM:")[2].split()[0]) // 1024 for text in peaks if "VmHWM:" in text)
    show(_NAME, f"largest memory of a process: {most} MiB")


def _timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Progress while a program waits for a job or sends a workspace, on a terminal, in a pipe and in a notebook."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.cluster import unique
from support.terminal_program import TerminalProgram
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import InvalidArgumentError

BEGIN = """
from iris import AsyncIrisClient, IrisClient
address, name = sys.argv[2:]
"""
# Waits for a file, which the test makes.
WAITS = ["sh", "-c", "until test -e go; do sleep 0.02; done; exit 3"]
SYNC = "job = IrisClient.remote(address).job(name)\njob.wait(raise_on_failure=False)\nprint('after')\n"
ASYNC = """
import asyncio
async def wait():
    async with AsyncIrisClient.remote(address) as client:
        await client.job(name).wait(raise_on_failure=False)
asyncio.run(wait())
print('after')
"""

Start = Callable[..., TerminalProgram]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[TerminalProgram] = []

    def start_program(text: str, *words: str) -> TerminalProgram:
        programs.append(TerminalProgram(BEGIN + text, tmp_path, *words))
        return programs[-1]

    yield start_program
    for program in programs:
        program.close()


@pytest.mark.parametrize("program", [SYNC, ASYNC])
def test_wait_on_a_terminal_shows_the_progress_and_a_summary(
    start: Start, client: IrisClient, shared_cluster: LocalServer, tmp_path: Path, program: str
) -> None:
    job = client.run(WAITS, name=unique("slow"), replicas=2, working_directory=tmp_path, max_task_failures=1)
    waiting = start(program, shared_cluster.address, job.job_id)
    waiting.shows(f"job {job.job_id}  [........................]  RUNNING  0/2 tasks, 2 running, ")
    (tmp_path / "go").touch()
    assert waiting.terminal.exit_code() == 0
    summary, after, end = waiting.terminal.screen[-3:]
    assert summary.startswith(f"iris: job {job.job_id}: FAILED, 2/2 failed, in ")
    assert (after, end) == ("after", "")


def test_wait_on_a_terminal_shows_why_the_job_waits(
    start: Start, client: IrisClient, shared_cluster: LocalServer
) -> None:
    machines = client.machines()
    every_core = {"cpu": machines[0].total.cpu}
    blocker = client.run(
        ["sleep", "600"], name=unique("blocker"), replicas=len(machines), resources=every_core, placement="spread"
    )
    job = client.run(["true"], name=unique("waits"), resources=every_core)
    waiting = start(SYNC, shared_cluster.address, job.job_id)
    waiting.shows(f"job {job.job_id}  PENDING  0/1 tasks, ")

    def shows_reason() -> bool:
        # The reason names the free resources, which may change.
        reason = client.status(job).status_message
        return bool(reason) and reason[:20] in waiting.terminal.screen[-1]

    wait_until(shows_reason, f"the reason on {waiting.terminal.screen}")
    blocker.terminate()
    assert waiting.terminal.exit_code() == 0
    assert waiting.terminal.screen[-3].startswith(f"iris: job {job.job_id}: SUCCEEDED, 1/1 succeeded")


def test_wait_in_a_pipe_prints_progress_only_if_requested(
    client: IrisClient, shared_cluster: LocalServer, tmp_path: Path
) -> None:
    job = client.run(WAITS, name=unique("pipe"), working_directory=tmp_path)
    program = (
        "import sys; from iris import IrisClient\n"
        "IrisClient.remote(sys.argv[1]).wait(sys.argv[2], progress=eval(sys.argv[3]))\n"
    )
    shown, default, never = (
        subprocess.Popen(
            [sys.executable, "-c", program, shared_cluster.address, job.job_id, progress],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for progress in ("True", "None", "False")
    )
    assert shown.stderr is not None
    assert shown.stderr.readline().startswith(f"iris: job {job.job_id}: ")
    (tmp_path / "go").touch()
    out, err = shown.communicate()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"iris: job {job.job_id}: FAILED, 1/1 failed, in ")
    assert default.communicate() == never.communicate() == ("", "")


def test_wait_with_both_progress_and_stream_logs_is_refused(client: IrisClient) -> None:
    with pytest.raises(InvalidArgumentError, match="progress=True and stream_logs=True exclude each other"):
        client.wait("train", stream_logs=True, progress=True)


class StalledUpload(BaseHTTPRequestHandler):
    """Refuses the first call, so that the client sends the workspace, and then reads nothing of the second call."""

    protocol_version = "HTTP/1.1"
    over = threading.Event()

    def do_POST(self) -> None:
        if int(self.headers.get("Content-Length", 1 << 30)) < 100_000:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"code": "failed_precondition", "message": "the workspace is missing"}'
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.over.wait()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_slow_upload_of_a_workspace_shows_a_bar_on_a_terminal(start: Start, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "data.bin").write_bytes(bytes(range(256)) * 4)
    program = """
import random
open("code/random.bin", "wb").write(random.Random(1).randbytes(20_000_000))
try:
    IrisClient.remote(address, token="x").run(["true"], workspace="code", name=name)
except KeyboardInterrupt:
    print("interrupted")
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), StalledUpload) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            sending = start(program, f"127.0.0.1:{server.server_port}", "upload")
            sending.shows(" of 20 MB, ")
            assert sending.terminal.screen[-1].startswith("sending the workspace  [")
            sending.terminal.type("\x03")
            assert sending.terminal.exit_code() == 0
            assert sending.terminal.screen[-2:] == ["interrupted", ""]
        finally:
            StalledUpload.over.set()
            server.shutdown()
            thread.join()

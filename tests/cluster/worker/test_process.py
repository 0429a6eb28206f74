"""The output of an attempt's processes is captured, even if the event loop is busy."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.cluster import is_alive, shell
from support.waiting import wait_until

from iris.cluster.logs.log_writer import Source
from iris.cluster.worker.process.attempt_process import AttemptProcess, Exit
from iris.cluster.worker.process.launcher import Program, start_launcher


async def nothing() -> None:
    """Do nothing, because no process strays."""


@pytest.mark.parametrize("holds", [False, True])
def test_all_output_is_captured_although_an_escaped_process_keeps_the_pipes_open(tmp_path: Path, holds: bool) -> None:
    size = 900_000  # fits into a pipe
    running: list[AttemptProcess] = []
    captured: dict[Source, int] = {"stdout": 0, "stderr": 0}
    holder = "exec 3>&1; setsid sleep 60 >&3 2>/dev/null & echo $! >pid; " if holds else ""

    def append(source: Source, data: bytes) -> None:
        is_first = not any(captured.values())
        captured[source] += len(data)
        if is_first:
            wait_until(lambda: not is_alive(running[0].pid), "its end")  # busy until then

    launcher = start_launcher()

    async def run() -> Exit:
        script = f"{holder}head -c {size} /dev/zero; head -c {size} /dev/zero >&2"
        program = Program(shell(script), str(tmp_path), dict(os.environ), file_limit=1024)
        running.append(await AttemptProcess.start(program, launcher, append=append, end_strays=nothing, drain_s=0))
        return await running[0].wait()

    try:
        assert asyncio.run(run()).code == 0
        assert captured == {"stdout": size, "stderr": size}
    finally:
        launcher.close()
        os.waitpid(launcher.pid, 0)
        if holds:
            os.kill(int((tmp_path / "pid").read_text()), 9)

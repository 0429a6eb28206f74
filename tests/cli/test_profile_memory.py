"""Memory profiles, which are chosen at submission: `iris run --profile-memory` and `iris profile --memory`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.cluster import unique
from support.tokens import token

from iris.cli.commands.inspect.profile import profile
from iris.cli.commands.submission.run import run
from iris.client import IrisClient
from iris.client.inspect.memory_profile import MemoryProfile, read_memory_profile
from iris.cluster.client.server_process import LocalServer
from iris.cluster.memory_profile import PROFILE_PATH, profiled, split_command
from iris.cluster.worker.process.memory_profiler import check_memray
from iris.cluster.worker.process.start_errors import NotStartedError
from iris.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
HOLD = "def hold_memory(): return [bytes(1000) for _ in range(20000)]\nheld = hold_memory()\n"


def test_memory_profile_of_a_killed_program_is_stored_and_shown_in_each_format(
    remote_iris: Iris, client: IrisClient
) -> None:
    folder = remote_iris.folder / "space"
    folder.mkdir()
    (folder / "hold.py").write_text(f"{HOLD}import os\nos.kill(os.getpid(), 9)\n")
    options = ("--profile-memory", "--workspace", "space", "--name", unique("hold"))
    remote_iris("run", *options, "--", sys.executable, "-u", "hold.py", code=128 + 9)
    job = options[-1]
    assert [file.path for file in client.outputs(job)] == [PROFILE_PATH]
    assert remote_iris.json("describe", job)["submission"]["profile_memory"] is True
    assert f"iris profile --memory {job}/task-0" in remote_iris.json("describe", job)["next"]
    assert f"'iris profile --memory {job}/task-0' shows" in remote_iris("profile", job, code=1).stderr
    table = remote_iris("profile", "--memory", job).stdout
    assert {"hold_memory", "<module>"} <= {line.split()[4] for line in table.splitlines()[3:-1]}
    assert "memray" not in table
    assert "importlib" not in table
    document = remote_iris.json("profile", "--memory", f"{job}/task-0")
    assert document["peak_bytes"] > 20_000_000
    holder = next(one for one in document["functions"] if one["self_bytes"] > 15_000_000)
    assert holder["file"].endswith("hold.py")
    remote_iris("profile", "--memory", job, "-o", "memory.html")
    assert "hold_memory" in (remote_iris.folder / "memory.html").read_text()
    assert "hold_memory" in remote_iris("profile", "--memory", job, "--format", "collapsed", "-o", "-").stdout
    assert "exclude each other" in remote_iris("profile", "--memory", job, "--rate", "5", code=2).stderr
    # A retry keeps the option.
    again = client.retry(job)
    again.wait(progress=False, raise_on_failure=False)
    assert [file.path for file in again.outputs()] == [PROFILE_PATH]


def hold() -> int:
    Path("out/x").write_text("x")
    held = [bytes(1000) for _ in range(20000)]
    return len(held)


def test_callable_with_a_memory_profile_returns_its_result_and_the_profile_names_its_file(
    client: IrisClient, shared_cluster: LocalServer, tmp_path: Path
) -> None:
    job = client.run(hold, name=unique("hold"), profile_memory=True, outputs=["out"])
    job.wait(progress=False)
    assert job.results() == [20000]
    (file,) = (one for one in job.outputs() if one.path == PROFILE_PATH)
    file.download(tmp_path / "memray.bin")
    (most, *_) = read_memory_profile(tmp_path / "memray.bin").functions()
    assert most.self_bytes > 15_000_000
    assert most.file.endswith("test_profile_memory.py")
    with pytest.raises(FailedPreconditionError, match="the memory profile cannot be read"):
        read_memory_profile(Path(__file__))
    check_that_only_the_owner_and_admins_can_read_the_profile(shared_cluster, job.job_id, tmp_path)


def check_that_only_the_owner_and_admins_can_read_the_profile(cluster: LocalServer, job_id: str, folder: Path) -> None:
    """Check who can read the profile. The job has another output, which all readers can read."""
    for role in ("user", "reader", "admin"):
        with IrisClient.remote(cluster.address, token=token(role, name="bob")) as bob:
            outputs = bob.outputs(job_id)
            files = {file.path: file for file in outputs}
            assert set(files) == {PROFILE_PATH, "out/x"}
            if role != "admin":
                with pytest.raises(PermissionDeniedError, match="and admins may read its memory profiles, not 'bob'"):
                    files[PROFILE_PATH].download(folder / "refused")
            outputs.download(folder / f"all-{role}")
            profile = folder / f"all-{role}/task-0" / PROFILE_PATH
            assert profile.exists() == (role == "admin")
            assert (folder / f"all-{role}/task-0/out/x").read_text() == "x"


def test_memory_profile_of_a_task_without_memray_fails_before_the_task_runs(
    remote_iris: Iris, client: IrisClient
) -> None:
    # With -I and -S, Python finds no installed packages.
    command = [sys.executable, "-I", "-S", "-c", "print('ran')"]
    job = client.run(command, name=unique("lacks"), profile_memory=True)
    status = job.wait(progress=False, raise_on_failure=False)
    assert "profile_memory needs memray" in status.error
    assert [line.message for line in job.logs() if line.source == "stdout"] == []
    shown = remote_iris("profile", "--memory", job.job_id, code=1).stderr
    assert "has no memory profile, because its outputs are not stored: the attempt ended before" in shown


class NoStrays:
    """Kills no process."""

    def spare(self, pid: int) -> None:
        pass

    def release(self, pid: int) -> None:
        pass


# Runs in a process of its own, because the object kills all other children of its process.
CHECK_BESIDE_STRAYS = """
import asyncio, sys
from pathlib import Path
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.paths import WorkerDir
from iris.cluster.worker.process.memory_profiler import check_memray
from iris.cluster.worker.process.start_errors import NotStartedError
from iris.cluster.worker.supervision.strays import StrayProcesses

async def main():
    strays = StrayProcesses(AttemptRegistry("w", WorkerDir(Path("."))), "token", ())

    async def kill_strays():
        while True:
            await strays.kill()
            await asyncio.sleep(0)

    killing = asyncio.create_task(kill_strays())
    await asyncio.sleep(0)
    try:
        await check_memray([sys.executable, "-I", "-S", "a.py"], ".", {}, strays)
    except NotStartedError as error:
        print(error)
    killing.cancel()

asyncio.run(main())
"""


def test_check_for_memray_is_not_killed_as_a_stray_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHECK_BESIDE_STRAYS]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("profile_memory needs memray")


def test_memory_profile_of_a_command_that_is_not_a_python_program_fails_before_the_start() -> None:
    with pytest.raises(NotStartedError, match="profile_memory needs a Python program, got 'python -'"):
        asyncio.run(check_memray(["python", "-"], "/", {}, NoStrays()))


@pytest.mark.parametrize("command", [["sh", "-c", "true"], ["python"], ["python", "-m"], ["torchrun", "a.py"]])
def test_memory_profile_of_a_command_that_is_not_python_is_refused(client: IrisClient, command: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="profile_memory needs a Python function, or a command such as"):
        client.run(command, profile_memory=True)


def test_output_with_the_directory_name_of_the_memory_profile_is_refused(client: IrisClient) -> None:
    with pytest.raises(InvalidArgumentError, match="give your outputs another name"):
        client.run(["python", "a.py"], profile_memory=True, outputs=["memory-profile"])


def test_error_for_a_job_without_a_memory_profile_names_the_next_step(remote_iris: Iris) -> None:
    job = remote_iris.detach("true")
    remote_iris("wait", job)
    assert "submit the job with 'iris run --profile-memory'" in remote_iris("profile", "--memory", job, code=1).stderr


def test_error_for_a_missing_memory_profile_states_whether_the_job_still_runs_or_was_terminated(
    remote_iris: Iris, client: IrisClient
) -> None:
    job = client.run([sys.executable, "-c", "import time; time.sleep(600)"], name=unique("long"), profile_memory=True)
    shown = remote_iris("profile", "--memory", job.job_id, code=1).stderr
    assert f"wait for its end with 'iris wait {job.job_id}'" in shown
    assert "--profile-memory" not in shown
    job.terminate()
    job.wait(progress=False, raise_on_failure=False)
    shown = remote_iris("profile", "--memory", job.job_id, code=1).stderr
    assert "a terminated attempt leaves no profile" in shown
    assert "--profile-memory" not in shown
    assert not any("--memory" in command for command in remote_iris.json("describe", job.job_id)["next"])


@pytest.mark.parametrize("name", ["memory.svg", "memory.JSON"])
def test_output_file_for_a_memory_profile_with_an_unsupported_format_is_refused(name: str) -> None:
    answer = CliRunner().invoke(profile, ["--memory", "train", "-o", name])
    assert answer.exit_code == 2
    assert "give --output memory.html" in answer.output
    assert "--json" in answer.output


def test_error_of_the_command_line_for_a_program_that_is_not_python_names_the_option() -> None:
    answer = CliRunner().invoke(run, ["--profile-memory", "--", "sh", "-c", "true"])
    assert answer.exit_code == 2
    assert "--profile-memory needs a command that runs a Python program, such as 'python train.py'" in answer.output


def test_table_of_a_memory_profile_shows_callers_and_leaves_out_small_functions() -> None:
    main, load, small = ("main", "a.py", 1), ("load", "a.py", 2), ("small", "a.py", 3)
    table = str(MemoryProfile(Path("a"), 1000, 3, {(main, load): 995, (main, small): 5}))
    assert [line.split()[-2:] for line in table.splitlines()[3:5]] == [["load", "a.py:2"], ["main", "a.py:1"]]
    assert table.endswith("… and 1 further function")


def test_memray_is_put_between_the_interpreter_and_its_program() -> None:
    assert profiled(["/usr/bin/python3.11", "-u", "-X", "dev", "train.py", "-c", "1"], "/p") == [
        *("/usr/bin/python3.11", "-u", "-X", "dev", "-m", "memray", "run"),
        *("--quiet", "--force", "--output", "/p", "train.py", "-c", "1"),
    ]
    assert split_command(["python", "-m", "train", "x"]) == (["python"], ["-m", "train", "x"])
    assert split_command(["pythonic", "a.py"]) is None
    assert split_command([]) is None
    assert split_command(["python3.13t", "-Xfrozen_modules=off", "a.py"]) is not None
    assert split_command(["python", "-uc", "pass"]) is None
    assert split_command(["python", "-uW", "ignore", "a.py"]) is None
    assert split_command(["python", "-cprint(1)\nprint(2)", "argument"]) is None

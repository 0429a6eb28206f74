"""A task of `iris run` gets the environment, umask and folder of the shell, and runs on the right cluster."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import is_alive
from support.preloaded import Preloaded
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def in_shell(iris: Iris, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in which `iris` is the program."""
    program = f'iris() {{ {shlex.join(iris.command())} "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", program + script],
        env=iris.env | env,
        cwd=iris.folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
    )


def start_cluster(iris: Iris) -> Iris:
    """Start a cluster from a shell with a variable and a umask of its own."""
    done = in_shell(iris, "umask 077; iris up --port 0", OF_UP="1", BOTH="of up")
    assert done.returncode == 0, done
    return iris


@pytest.fixture
def up(iris: Iris) -> Iris:
    """A cluster that the test may break."""
    return start_cluster(iris)


@pytest.fixture(scope="module")
def shared_up(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded) -> Iterator[Iris]:
    """A cluster for all tests that do not break it."""
    from cli.conftest import Iris as Program

    program = Program(tmp_path_factory.mktemp("shared") / "iris", preloaded)
    yield start_cluster(program)
    program("down")
    program.close()


def test_tasks_of_iris_run_get_the_environment_of_iris_run_instead_of_iris_up(shared_up: Iris) -> None:
    done = shared_up("run", "--env", "GIVEN=2", "--", "env", BOTH="of run", EMPTY="")
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert "OF_UP" not in variables
    assert (variables["BOTH"], variables["GIVEN"], variables["EMPTY"]) == ("of run", "2", "")
    own = {name for name in variables if not name.startswith(("IRIS_", "LC_"))} - {"PWD", "PYTHONUNBUFFERED", "GIVEN"}
    assert own <= {*shared_up.env, "BOTH", "EMPTY", "_", "OLDPWD", "SHLVL"}
    assert variables["IRIS_JOB_ID"]


def test_child_job_without_the_variables_of_its_parent_gets_the_environment_of_the_worker(shared_up: Iris) -> None:
    show = "sh -c 'echo $OF_PARENT-$OWN-$OF_UP'"
    inner = f"iris run --name {{0}} -e OWN=1 {{1}} -- {show}"
    program = f'iris() {{ {shlex.join(shared_up.command())} "$@"; }}\n'
    script = program + inner.format("heir", "") + "\n" + inner.format("other", "--no-inherit-env")
    done = shared_up("run", "-e", "OF_PARENT=2", "--", "sh", "-c", script)
    assert done.stdout.splitlines() == ["2-1-", "-1-1"], done


def test_run_passes_its_umask_to_the_task(shared_up: Iris) -> None:
    assert in_shell(shared_up, "umask 027; iris run -- sh -c umask").stdout == "0027\n"
    assert in_shell(shared_up, "umask 0; iris run -- sh -c umask").stdout == "0000\n"


def test_pwd_variable_of_a_task_contains_the_symbolic_links_of_the_shells_path(shared_up: Iris) -> None:
    (shared_up.folder / "real").mkdir()
    (shared_up.folder / "link").symlink_to("real")
    done = in_shell(shared_up, "cd link; iris run -- sh -c 'echo $PWD; pwd -P'; PWD=/ iris run -- printenv PWD")
    folder = shared_up.folder.resolve()
    assert done.stdout.splitlines() == [f"{shared_up.folder}/link", f"{folder}/real", f"{folder}/real"]


def test_task_in_a_copy_of_a_folder_has_the_copy_as_pwd(shared_up: Iris) -> None:
    (shared_up.folder / "code").mkdir()
    done = shared_up("run", "--workspace", "code", "--", "sh", "-c", 'printf "%s\\n" "$PWD"; env pwd -P')
    by_name, real = done.stdout.splitlines()
    assert os.path.realpath(by_name) == real != str(shared_up.folder.resolve() / "code")


def test_variables_that_are_not_valid_text_are_left_out_with_a_notice(shared_up: Iris) -> None:
    env = {os.fsencode(name): os.fsencode(value) for name, value in shared_up.env.items()}
    env |= {b"LATIN": b"caf\xe9", b"GOOD": b"1", b"": b"empty"}
    done = subprocess.run(
        shared_up.command("run", "--", "env"),
        env=env,
        cwd=shared_up.folder,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done
    assert b"GOOD=1" in done.stdout.splitlines()
    assert b"LATIN" not in done.stdout
    assert done.stderr.count(b"left out of the environment") == 1
    assert b"'LATIN'" in done.stderr


def test_run_inside_a_task_stays_in_the_folder_of_the_task(iris: Iris) -> None:
    inner = shlex.join(iris.command("run", "--", "sh", "-c", "echo $IRIS_JOB_ID; echo written > result"))
    done = iris("run", "--name", "outer", "--", "sh", "-c", inner)
    assert done.stdout.startswith("outer/")
    assert (iris.folder / "result").read_text() == "written\n"


def test_killed_server_is_reported_and_no_second_cluster_is_started(up: Iris) -> None:
    job = up.detach("exec sleep 600")
    up.wait_for(job, "RUNNING")
    pid = up.json("up")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the end of the server")
    for words in (["run", "--", "true"], ["ps"], ["logs", job]):
        said = up(*words, code=125 if words[0] == "run" else 1).stderr
        assert all(words in said for words in ("was killed", "'iris up'", "'iris down'")), said
    up("up", "--port", "0")
    assert up("run", "--", "true").returncode == 0
    assert job in up("ps").stdout


def test_cluster_is_found_after_its_machine_was_renamed(up: Iris) -> None:
    state = Path(up.env["XDG_STATE_HOME"]) / "iris"
    (record,) = state.glob("up-*.json")
    for suffix in (".json", ".lock"):
        record.with_suffix(suffix).rename(state / f"up-the-name-before{suffix}")
    assert up("run", "--detach", "--", "true").returncode == 0
    pid = up.json("up")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the end of the server")
    assert "was killed" in up("run", "--", "true", code=125).stderr
    assert up("up", "--port", "0").returncode == 0
    assert [path.name for path in state.glob("up-*.json")] == [record.name]
    assert up("down").stdout.startswith("the cluster at")
    assert list(state.glob("up-*.json")) == []


def test_user_without_a_home_can_run_a_job_but_not_start_a_cluster(iris: Iris) -> None:
    unknown = ["unshare", "--user", "--map-user=54321", "env", "-u", "HOME", "-u", "XDG_STATE_HOME"]
    if subprocess.run([*unknown, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets us make no user namespaces")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*unknown, *words], env=iris.env, cwd=iris.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    done = run(*iris.command("run", "--", "id", "-u"))
    assert (done.returncode, done.stdout) == (0, "54321\n"), done
    local = "from iris.client import IrisClient\nwith IrisClient.local() as c: print(c.run(['true']).wait().exit_code)"
    done = run(iris.command()[0], "-c", local)
    assert (done.returncode, done.stdout) == (0, "0\n"), done
    for words in ("up", "down"):
        done = run(*iris.command(words))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        assert "set HOME or XDG_STATE_HOME" in done.stderr
    done = run(*iris.command("ps"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done

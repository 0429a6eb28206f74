"""Pickles run code when they are loaded: so they are loaded where the user's code runs, and nowhere else."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cluster import wait_for_end
from support.waiting import wait_until

import iris
from iris.client import IrisClient, Job, Task
from iris.cluster.client.server_process import LocalServer
from iris.errors import InvalidArgumentError, ResultError
from iris.rpc import cluster_pb2

SOURCE = Path(iris.__file__).parent
LOADERS = {
    "client/maps/outcomes.py": {"Unpickler"},  # It refuses every class.
    "cluster/pickles/resolving.py": {"Unpickler"},
    "cluster/worker/process/run_inputs.py": {"loads"},  # It runs in the task's own process.
}
# Only the program of a task's own process loads pickles, and a client that asks for the results of a job.
LOADING = {"load_in_task", "load_here", "ResolvingUnpickler"}
USERS = {
    "cluster/worker/process/run_callable.py": {"load_here", "load_in_task"},  # callables, and inputs of a map
    "client/aio/maps/map_job.py": {"load_here"},
    "client/maps/map_job.py": {"load_here"},
    "client/aio/job.py": {"load_here"},
    "client/job.py": {"load_here"},
    "client/results.py": {"load_here"},
}
UNPICKLING = {"loads", "load", "Unpickler", "_Unpickler", "_loads", "_load"}
PICKLING_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "shelve", "joblib", "marshal", "multiprocessing"}


def unpickling(program: str) -> set[str]:
    """The names by which a program loads pickles."""
    tree = ast.parse(program)
    modules, found = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {
                alias.asname or alias.name for alias in node.names if alias.name.split(".")[0] in PICKLING_MODULES
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLING_MODULES:
            found |= {alias.name for alias in node.names} & (UNPICKLING | {"*"})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in UNPICKLING and isinstance(node.value, ast.Name):
            found |= {node.attr} if node.value.id in modules else set()
    return found


def test_check_for_unpickling_in_source_code_finds_each_form_of_unpickling() -> None:
    assert unpickling("import pickle as p\np.loads(b'')") == {"loads"}
    assert unpickling("from cloudpickle import loads") == {"loads"}
    assert unpickling("def f():\n    import pickle\n    class U(pickle.Unpickler): pass") == {"Unpickler"}
    assert unpickling("import json\njson.loads('')\nimport pickle\npickle.dumps(1)") == set()


def loading(program: str) -> set[str]:
    """The names of our own loader that a program mentions."""
    nodes = list(ast.walk(ast.parse(program)))
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    named |= {node.id for node in nodes if isinstance(node, ast.Name)}
    named |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return named & LOADING


def test_source_code_of_iris_unpickles_only_in_tasks_and_for_results() -> None:
    programs = {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
    assert {name: names for name, text in programs.items() if (names := unpickling(text))} == LOADERS
    ours = {name: text for name, text in programs.items() if not name.startswith("cluster/pickles/")}
    assert {name: names for name, text in ours.items() if (names := loading(text))} == USERS


class Note:
    """Writes down which process has loaded it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        program = "import os; open({!r}, 'a').write(f'{{os.getpid()}} {{os.environ.get(\"IRIS_TASK_ID\")}}\\n')"
        return exec, (program.format(str(self._path)),)


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED"])
def test_submitted_pickle_is_loaded_only_by_its_task(
    client: IrisClient, shared_cluster: LocalServer, tmp_path: Path, state: str
) -> None:
    notes = tmp_path / "notes"
    function = (print, (Note(notes),), {}) if state == "SUCCEEDED" else (Note(notes), (), {})
    request = cluster_pb2.Controller.LaunchJobRequest(
        name=f"pickle-{os.urandom(4).hex()}", serialized_entrypoint=pickle.dumps(function), submission_id="1"
    )
    job_id = client.cluster.launch_job(request)
    # All that servers do with a job: statuses, lists, logs, reports, results.
    job = wait_for_end(client.cluster, job_id)
    client.cluster.list_tasks(job_id)
    client.cluster.list_jobs()
    client.fetch_task_logs(job_id, task_index=0)
    client.cluster.get_task_status(job_id, 0)
    assert cluster_pb2.JobState.Name(job.state) == f"JOB_STATE_{state}"
    ((pid, task_id),) = [line.split() for line in notes.read_text().splitlines()]
    assert task_id == f"{job_id}/task-0"
    assert int(pid) not in (shared_cluster.process.pid, os.getpid())


def make_note(path: Path) -> Note:
    return Note(path)


def test_result_is_unpickled_only_by_its_reader(
    client: IrisClient, shared_cluster: LocalServer, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    job = client.run(make_note, args=[notes])
    wait_until(lambda: client.cluster.get_job_status(job.job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED, "its end")
    assert client.cluster.get_task_status(job.job_id, 0, include_result=True).serialized_result
    (task,) = job.tasks()
    repr([job, task, job.status(), task.status(), client.list_jobs(), list(job.logs())])
    for words in (["status", job.job_id], ["ps"], ["status", job.job_id, "--json"], ["logs", job.job_id]):
        subprocess.run(
            [sys.executable, "-m", "iris.cli", "--address", shared_cluster.address, *words],
            env=os.environ | {"IRIS_TOKEN": client.cluster.token()},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    data = task.result_bytes()
    assert job.results(loads=bytes) == [data]
    assert task.result(loads=len) == len(data)
    assert not notes.exists(), "nobody has asked for the value yet"
    job.results()
    assert [int(line.split()[0]) for line in notes.read_text().splitlines()] == [os.getpid()]


def test_results_loader_that_refuses_a_result_raises_result_error(client: IrisClient) -> None:
    def refuse(data: bytes) -> object:
        raise ValueError(f"no globals in {len(data)} bytes")

    job = client.run(lambda: 7, replicas=2)
    with pytest.raises(
        ResultError, match=r"cannot load the returned value: ValueError: no globals in \d+ bytes"
    ) as caught:
        job.results(loads=refuse)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.task_id == f"{job.job_id}/task-0"
    assert job.results(loads=pickle.loads) == [7, 7]


@pytest.mark.parametrize("loads", [None, b"", "json"])
def test_invalid_results_loader_is_refused_before_waiting(client: IrisClient, loads: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="loads must be a function or another callable, got"):
        Job(client, "no-such-job").results(loads=loads)
    with pytest.raises(InvalidArgumentError, match="loads must be a function"):
        Task(client, "no-such-job", 0).result(loads=loads)


def test_method_result_bytes_raises_result_error_for_a_command(client: IrisClient) -> None:
    job = client.run(["true"])
    job.wait()
    with pytest.raises(ResultError, match="a command has no return value"):
        job.tasks()[0].result_bytes()

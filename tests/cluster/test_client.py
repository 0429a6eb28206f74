"""What the contract says of the clients as a whole: where the names stand, and that both have the same verbs."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle

import pytest
from support.cluster import shell

from iris.client import IrisClient
from iris.cluster.client.local_client import LocalClusterClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import JobInfo
from iris.errors import NotFoundError

NAMES = {
    "iris.client": ["IrisClient", "Job", "Task", "LogEntry"],
    "iris.client.client": ["IrisClient"],
    "iris.client.job": ["Job", "Task", "LogEntry"],
    "iris.cluster.types": ["JobInfo", "get_job_info", "ResourceSpec", "is_job_finished", "is_task_finished"],
    "iris.cluster.client.remote_client": ["RemoteClusterClient"],
    "iris.cluster.client.local_client": ["LocalClusterClient"],
    "iris.cluster.controller.jobs.task": ["Task", "TaskAttempt"],
    "iris.rpc.cluster_pb2": ["TaskStatus", "JobStatus", "Worker", "Controller"],
    "iris.rpc.cluster_connect": ["ControllerService", "WorkerService", "ControllerServiceClientSync"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_public_names_can_be_imported_from_their_modules(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("holder", "verb", "parameters"),
    [
        (IrisClient, "task_status", ["job_id", "task_index"]),
        (IrisClient, "list_tasks", ["job_id"]),
        (IrisClient, "fetch_task_logs", ["job_id", "task_index", "start_ms", "max_lines"]),
        (IrisClient, "wait", ["job_id", "timeout", "poll_interval", "stream_logs", "stream_task_index"]),
        (RemoteClusterClient, "get_task_status", ["job_id", "task_index"]),
        (RemoteClusterClient, "list_tasks", ["job_id"]),
        (RemoteClusterClient, "fetch_task_logs", ["task_id", "start_ms", "max_lines"]),
        (LocalClusterClient, "get_task_status", ["job_id", "task_index"]),
        (LocalClusterClient, "list_tasks", ["job_id"]),
        (LocalClusterClient, "fetch_task_logs", ["task_id", "start_ms", "max_lines"]),
    ],
)
def test_client_methods_accept_positional_arguments_in_the_documented_order(
    holder: type, verb: str, parameters: list[str]
) -> None:
    positional = [
        name
        for name, parameter in inspect.signature(getattr(holder, verb)).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and name != "self"
    ]
    assert positional == parameters


def test_get_job_info_in_a_task_returns_the_info_of_its_job(client: IrisClient) -> None:
    def describe() -> bytes:
        from iris.cluster.types import get_job_info

        return pickle.dumps(get_job_info())

    job = client.run(describe, replicas=2, ports=["HTTP"])
    for index, pickled in enumerate(job.results(timeout=60)):
        info = pickle.loads(pickled)
        task = client.task_status(job.job_id, index)
        assert info == JobInfo(
            job_id=job.job_id,
            task_id=f"{job.job_id}/task-{index}",
            task_index=index,
            num_tasks=2,
            attempt_id=0,
            worker_id=task.worker_id,
            controller_address=client.cluster.controller_address,
            ports={"http": task.ports["http"]},
        )


def test_existing_client_works_in_a_forked_child_process(client: IrisClient) -> None:
    client.list_jobs()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            job = client.run(shell("echo from the child"))
            job.wait(timeout=60)
            os.write(writing, next(job.logs()).message.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        assert pipe.read() == "from the child"
    os.waitpid(pid, 0)
    assert client.list_jobs(), "and the parent's connection is as good as before"


def test_workspace_modules_named_like_iris_modules_do_not_shadow_them(
    client: IrisClient, tmp_path: os.PathLike[str]
) -> None:
    for name in ("iris.py", "types.py", "random.py"):
        with open(os.path.join(tmp_path, name), "w") as file:
            file.write("raise RuntimeError('the wrong module')\n")
    assert client.run(lambda: 42, workspace=tmp_path).results(timeout=60) == [42]


def test_task_id_given_as_a_job_id_raises_an_error_that_names_the_mistake(client: IrisClient) -> None:
    job = client.run(["true"])
    with pytest.raises(NotFoundError, match=f"that is task 0 of job '{job.job_id}'"):
        client.status(f"{job.job_id}/task-0")
    with pytest.raises(NotFoundError, match=r"no job named 'no-such/task-0'$"):
        client.status("no-such/task-0")

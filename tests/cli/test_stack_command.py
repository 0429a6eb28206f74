"""`iris stack` and `iris profile`: their answers, exit codes, and Ctrl-C."""

from __future__ import annotations

import json
import sys
from typing import Any

import httpx
import pytest
from support.waiting import wait_until

from iris.cli.cluster.lookup import Target
from iris.cli.commands.inspect.profile import _sample
from iris.cli.output.printer import Output
from iris.client import IrisClient
from iris.rpc import cluster_pb2

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
# Task 1 is not a Python program.
_SCRIPT = f"""
if [ "$IRIS_TASK_INDEX" = 1 ]; then exec sleep 1000; fi
exec {sys.executable} -c 'def hold(password):
    import time
    time.sleep(1000)
hold("hunter2")'
"""


def test_stack_command_shows_variables_on_request_and_fails_if_no_stack_can_be_read(remote_iris: Iris) -> None:
    name = remote_iris.detach(_SCRIPT, "-n", "2")

    def groups() -> list[Any]:
        # The command fails until Python has started.
        document = json.loads(remote_iris("stack", name, "--json", code=None).stdout or '{"groups": []}')
        return [group for group in document["groups"] if group["frames"][0]["function"] == "hold"]

    (group,) = wait_until(groups, "the stack of task 0", pause_s=0.2)
    assert (group["thread"], group["task_indices"]) == ("MainThread", [0])
    assert "variables" not in group["frames"][0]
    shown = remote_iris("stack", name, "--locals").stdout
    assert 'password = "hunter2"' in shown
    assert "not Python: sleep (sleeping) in task 1" in shown
    failed = remote_iris("stack", f"{name}/task-1", code=1)
    assert failed.stdout.splitlines()[0] == f"job {name}: the stacks of 1 task"
    # The only thread waits, therefore the profile has no samples.
    said = remote_iris("profile", f"{name}/task-0", "--duration", "1s", "-o", "empty.svg").stderr
    assert "no thread used the CPU: --idle counts threads that wait" in said
    remote_iris("kill", name)


def test_errors_of_stack_and_profile_for_an_ended_job_mention_describe_and_logs(remote_iris: Iris) -> None:
    name = remote_iris.detach("exit 3")
    remote_iris("wait", name, code=3)
    for words in (("stack", name), ("stack", name, "--json"), ("profile", name, "--duration", "1s")):
        said = remote_iris(*words, code=1).stderr
        assert f"job {name} has ended (FAILED): 'iris describe {name}' shows its end, and 'iris logs {name}'" in said


@pytest.mark.parametrize("whole_calls", [0, 2])
def test_interrupted_profile_keeps_the_samples_of_its_completed_calls(whole_calls: int) -> None:
    sampled = cluster_pb2.SampleStacksResponse(
        frames=[cluster_pb2.StackFrame(function="spin", file="a.py", line=1)],
        stacks=[cluster_pb2.SampledStack(frames=[0], samples=7)],
        tasks=[cluster_pb2.SampledTask(task_index=0, samples=7)],
    )
    calls: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) > whole_calls:
            raise KeyboardInterrupt
        return httpx.Response(200, content=sampled.SerializeToString(), headers={"content-type": "application/proto"})

    target = Target(cluster_pb2.JobStatus(job_id="train"))
    with IrisClient.remote("http://cluster.test", transport=httpx.MockTransport(respond)) as client:
        if not whole_calls:
            with pytest.raises(KeyboardInterrupt):
                _sample(client, target, Output(), 60, 100, idle=False)
            return
        profile = _sample(client, target, Output(), 60, 100, idle=False)
    assert (profile.seconds, profile.samples) == (4, 14)
    assert profile.functions()[0].function == "spin"

"""Samples of many calls are summed, and written as a table, for speedscope, as lines and as a flame graph."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import httpx
import pytest

from iris.client import IrisClient
from iris.client.inspect.profile import FunctionShare, Profile, ProfiledTask, ProfileSum, slices
from iris.client.inspect.stacks import Frame
from iris.rpc import cluster_pb2 as pb

MAIN = Frame("main", "/app/train.py", 9)
STEP = Frame("step<&>", "/app/train.py", 5)
OTHER_LINE = Frame("step<&>", "/app/train.py", 6)
LOAD = Frame("load", "/app/loader.py", 3)
STACKS = {(MAIN, STEP): 60, (MAIN, OTHER_LINE): 20, (MAIN, LOAD): 15, (MAIN, LOAD, LOAD): 4, (MAIN,): 1}
PROFILE = Profile("train", 1, 100, STACKS, (ProfiledTask("train/task-0", 0, 100),))
SVG = "{http://www.w3.org/2000/svg}"


def answer(
    samples: int, reason: pb.StackReason = pb.STACK_REASON_UNSPECIFIED, text: str = ""
) -> pb.SampleStacksResponse:
    return pb.SampleStacksResponse(
        frames=[pb.StackFrame(function="main", file="/app/train.py", line=9)],
        stacks=[pb.SampledStack(frames=[0], samples=samples)] if samples else [],
        tasks=[pb.SampledTask(task_index=3, samples=samples, reason=reason, problem=text)],
    )


def test_profile_is_the_sum_of_the_answers_of_several_calls() -> None:
    total = ProfileSum("train", 100)
    total.add(answer(5), 2)
    total.add(answer(7), 1)
    assert total.profile() == Profile("train", 3, 100, {(MAIN,): 12}, (ProfiledTask("train/task-3", 3, 12),))


def test_profile_keeps_the_samples_of_a_task_that_ends_during_the_profile() -> None:
    total = ProfileSum("train", 100)
    total.add(answer(5), 2)
    total.add(answer(0, pb.STACK_REASON_NOT_RUNNING, "the task has ended"), 2)
    assert total.profile().tasks == (ProfiledTask("train/task-3", 3, 5),)
    assert (total.is_over, total.seconds) == (True, 2)


def test_profile_contains_the_reason_why_a_task_has_no_samples() -> None:
    total = ProfileSum("train", 100)
    total.add(answer(0, pb.STACK_REASON_NOT_PYTHON, "not Python"), 2)
    assert total.profile().tasks == (ProfiledTask("train/task-3", 3, 0, "NOT_PYTHON", "not Python"),)
    assert str(total.profile()).splitlines()[-1] == "no samples of task 3: not Python"


def test_profile_of_an_ended_job_ends_after_one_call() -> None:
    calls: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        ended = answer(0, pb.STACK_REASON_NOT_RUNNING, "the task does not run")
        return httpx.Response(200, content=ended.SerializeToString(), headers={"content-type": "application/proto"})

    with IrisClient.remote("http://cluster.test", transport=httpx.MockTransport(respond)) as client:
        profile = client.profile("train", duration_s=100)
    assert calls == ["/iris.cluster.ControllerService/SampleStacks"]
    assert (profile.seconds, profile.tasks[0].reason) == (0, "NOT_RUNNING")


@pytest.mark.parametrize(("duration", "calls"), [(1, [1]), (2, [2]), (5, [2, 2, 1])])
def test_duration_of_a_profile_is_divided_into_calls(duration: int, calls: list[int]) -> None:
    assert list(slices(duration)) == calls


def test_recursive_function_counts_once_in_a_sample() -> None:
    assert PROFILE.functions() == [
        FunctionShare("step<&>", "/app/train.py", 80, 80),
        FunctionShare("load", "/app/loader.py", 19, 19),
        FunctionShare("main", "/app/train.py", 1, 100),
    ]
    assert PROFILE.samples == 100


def test_table_of_a_profile_shows_the_share_of_each_function() -> None:
    assert str(PROFILE).splitlines() == [
        "job train: 100 samples of 1 task in 1 second",
        "",
        "  SELF   TOTAL  FUNCTION",
        " 80.0%   80.0%  step<&>  /app/train.py",
        " 19.0%   19.0%  load  /app/loader.py",
        "  1.0%  100.0%  main  /app/train.py",
    ]


def test_table_of_a_profile_without_samples_names_the_next_command() -> None:
    assert "iris stack" in str(Profile("train", 1, 100, {}, (ProfiledTask("train/task-0", 0, 0),)))


@pytest.mark.parametrize(("samples", "has_hint"), [(0, True), (9, True), (10, False)])
def test_table_of_a_profile_with_almost_no_samples_recommends_the_option_idle(samples: int, has_hint: bool) -> None:
    tasks = (ProfiledTask("train/task-0", 0, samples), ProfiledTask("train/task-1", 1, 0, "NOT_PYTHON", "not Python"))
    profile = Profile("train", 10, 100, {(MAIN,): samples} if samples else {}, tasks)
    assert ("--idle" in str(profile)) == has_hint


def test_collapsed_lines_contain_each_stack_once() -> None:
    assert PROFILE.collapsed().splitlines() == [
        "main (/app/train.py:9) 1",
        "main (/app/train.py:9);load (/app/loader.py:3) 15",
        "main (/app/train.py:9);load (/app/loader.py:3);load (/app/loader.py:3) 4",
        "main (/app/train.py:9);step<&> (/app/train.py:5) 60",
        "main (/app/train.py:9);step<&> (/app/train.py:6) 20",
    ]


def test_speedscope_document_has_the_same_stacks() -> None:
    document = json.loads(PROFILE.speedscope())
    frames = [Frame(one["name"], one["file"], one["line"]) for one in document["shared"]["frames"]]
    (profile,) = document["profiles"]
    stacks = {
        tuple(frames[position] for position in stack): round(weight * 100)
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True)
    }
    assert stacks == STACKS
    assert (profile["type"], profile["unit"], profile["endValue"]) == ("sampled", "seconds", pytest.approx(1.0))


def test_flamegraph_is_one_svg_file_with_a_box_for_each_frame() -> None:
    text = PROFILE.flamegraph()
    root = ET.fromstring(text)
    boxes = {
        (
            box.findtext(f"{SVG}title", ""),
            float(box.attrib["data-x"]),
            float(box.attrib["data-w"]),
            box.attrib["data-y"],
        )
        for box in root.iter(f"{SVG}g")
    }
    assert boxes == {
        ("main /app/train.py:9: 100 samples, 100.0%", 0.0, 1200.0, "0"),
        ("load /app/loader.py:3: 19 samples, 19.0%", 0.0, 228.0, "1"),
        ("load /app/loader.py:3: 4 samples, 4.0%", 0.0, 48.0, "2"),
        ("step<&> /app/train.py:5: 60 samples, 60.0%", 228.0, 720.0, "1"),
        ("step<&> /app/train.py:6: 20 samples, 20.0%", 948.0, 240.0, "1"),
    }
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # The file loads nothing.


def test_flamegraph_of_an_empty_profile_is_valid() -> None:
    ET.fromstring(Profile("train", 1, 100, {}, ()).flamegraph())

"""The outputs of py-spy become messages, and its errors become reasons. The texts here were printed by py-spy 0.4.3."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iris.cluster.stacks.frame_table import FrameTable
from iris.cluster.stacks.merging import StackCounts, merge_samples, merge_stacks
from iris.cluster.worker.inspect.py_spy_output import parse_dump, parse_samples, problem_in
from iris.rpc import cluster_pb2 as pb

_TRACE = """

Stack backtrace:
   0: anyhow::error::<impl anyhow::Error>::msg
   1: py_spy::python_process_info::get_python_version
"""


def thread(name: str | None, *frames: tuple[str, int], **fields: Any) -> dict[str, Any]:
    """Return a thread as py-spy prints it."""
    return {
        "pid": 7,
        "thread_id": 140179688847040,
        "thread_name": name,
        "os_thread_id": 70,
        "active": False,
        "owns_gil": False,
        "frames": [
            {"name": function, "filename": "/app/train.py", "line": line, "locals": None} for function, line in frames
        ],
        "process_info": None,
    } | fields


def test_threads_in_a_dump_of_py_spy_share_frames_and_the_main_thread_is_first() -> None:
    table = FrameTable()
    text = json.dumps(
        [thread("loader", ("wait", 3), ("main", 9)), thread("MainThread", ("step", 5), ("main", 9), active=True)]
    )
    main, loader = parse_dump(text, table, with_variables=False)
    assert (main.name, main.is_active, main.thread_id, list(main.frames)) == ("MainThread", True, 70, [2, 1])
    assert (loader.name, list(loader.frames), list(loader.variables)) == ("loader", [0, 1], [])
    assert [(frame.function, frame.file, frame.line) for frame in table.frames] == [
        ("wait", "/app/train.py", 3),
        ("main", "/app/train.py", 9),
        ("step", "/app/train.py", 5),
    ]


def test_variables_in_a_dump_of_py_spy_are_returned_for_each_frame_and_cut() -> None:
    entry = thread(None, ("step", 5), ("main", 9))
    entry["frames"][0]["locals"] = [
        {"name": "key", "addr": 1, "arg": True, "repr": '"secret"'},
        {"name": "batch", "addr": 2, "arg": False, "repr": "x" * 1000},
    ]
    (found,) = parse_dump(json.dumps([entry]), FrameTable(), with_variables=True)
    inner, outer = found.variables
    assert [(one.name, one.is_argument) for one in inner.variables] == [("key", True), ("batch", False)]
    assert inner.variables[0].value == '"secret"'
    assert len(inner.variables[1].value) == 200
    assert not outer.variables


@pytest.mark.parametrize(
    ("name", "thread_id", "shown"),
    [(None, 7, "MainThread"), (None, 70, ""), (None, None, ""), ("worker", 7, "worker")],
)
def test_main_thread_in_a_dump_has_a_name_without_the_module_threading(
    name: str | None, thread_id: int | None, shown: str
) -> None:
    (found,) = parse_dump(json.dumps([thread(name, os_thread_id=thread_id)]), FrameTable(), with_variables=False)
    assert found.name == shown


@pytest.mark.parametrize("text", ["", "{}", "[{}]", '[{"frames": 1}]', "[1]", "Error: x", '[{"frames": [], "x": 1}]'])
def test_text_that_is_not_a_dump_of_py_spy_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_dump(text, FrameTable(), with_variables=False)


def test_samples_of_py_spy_are_summed_and_unexpected_lines_are_ignored() -> None:
    counts = StackCounts()
    text = "<module> (/a b/y.py:7);C.m (/a b/y.py:6) 68\n<module> (/a b/y.py:7) 1\nnonsense\n\nread (libc.so) 2\n"
    assert parse_samples(text, counts) == 71
    assert parse_samples("<module> (/a b/y.py:7) 4\n", counts) == 4
    frames = [(frame.function, frame.file, frame.line) for frame in counts.table.frames]
    assert frames == [("<module>", "/a b/y.py", 7), ("C.m", "/a b/y.py", 6), ("read", "libc.so", 0)]
    assert counts.counts == {(0, 1): 68, (0,): 5, (2,): 2}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"Error: Failed to find python version from target process{_TRACE}", pb.STACK_REASON_NOT_PYTHON),
        (
            "Error: Failed to get process executable name. Check that the process is running.\n\nCaused by:\n"
            f"    0: No such file or directory (os error 2){_TRACE}",
            pb.STACK_REASON_ENDED,
        ),
        (
            "Permission Denied: Try running again with elevated permissions by going 'sudo env \"PATH=$PATH\" !!'",
            pb.STACK_REASON_PERMISSION,
        ),
        ("Error: Failed to copy\n\nCaused by:\n    Operation not permitted (os error 1)", pb.STACK_REASON_PERMISSION),
        ("Error: Unsupported version of Python: 3.19.0", pb.STACK_REASON_UNSUPPORTED),
        ("Error: Failed to copy PyThreadState\n\nCaused by:\n    0: Bad address", pb.STACK_REASON_FAILED),
        ("", pb.STACK_REASON_FAILED),
    ],
)
def test_error_of_py_spy_has_a_reason_code(text: str, reason: pb.StackReason) -> None:
    problem = problem_in(text, lambda: "the setting")
    assert problem.reason == reason
    assert (problem.text == "the setting") == (reason == pb.STACK_REASON_PERMISSION)
    assert "anyhow" not in problem.text


def test_unknown_error_of_py_spy_is_shown_with_its_causes() -> None:
    text = f"Error: Failed to copy PyThreadState\n\nCaused by:\n    0: Bad address (os error 14){_TRACE}"
    problem = problem_in(text, str)
    assert problem.text == "py-spy failed: Failed to copy PyThreadState; 0: Bad address (os error 14)"


def test_stacks_from_several_workers_are_merged_into_one_table_of_frames() -> None:
    first = pb.ReadStacksResponse(
        frames=[pb.StackFrame(function="a"), pb.StackFrame(function="b")],
        tasks=[pb.TaskStacks(task_index=2, processes=[pb.ProcessStacks(threads=[pb.ThreadStack(frames=[0, 1])])])],
    )
    second = pb.ReadStacksResponse(
        frames=[pb.StackFrame(function="b"), pb.StackFrame(function="c")],
        tasks=[
            pb.TaskStacks(task_index=0, processes=[pb.ProcessStacks(threads=[pb.ThreadStack(frames=[1, 0, 7, -1])])])
        ],
    )
    answer = merge_stacks([first, second], [pb.TaskStacks(task_index=1, problem="gone")])
    names = [frame.function for frame in answer.frames]
    assert names == ["a", "b", "c"]
    stacks = [
        [names[position] for position in one.threads[0].frames] for task in answer.tasks for one in task.processes
    ]
    assert [(task.task_index, task.problem) for task in answer.tasks] == [(0, ""), (1, "gone"), (2, "")]
    assert stacks == [["c", "b"], ["a", "b"]]  # Positions that no table has are left out.


def test_stack_samples_from_several_workers_are_summed() -> None:
    answers = [
        pb.SampleStacksResponse(
            frames=[pb.StackFrame(function=name) for name in names],
            stacks=[pb.SampledStack(frames=[0], samples=2), pb.SampledStack(frames=[0, 1], samples=3)],
            tasks=[pb.SampledTask(task_index=index, samples=5)],
        )
        for index, names in ((1, "ab"), (0, "ab"), (2, "ba"))
    ]
    total = merge_samples(answers, [])
    names = [frame.function for frame in total.frames]
    sums = {"".join(names[position] for position in stack.frames): stack.samples for stack in total.stacks}
    assert sums == {"a": 4, "ab": 6, "b": 2, "ba": 3}
    assert [task.task_index for task in total.tasks] == [0, 1, 2]

"""Converts profiles into the formats of other tools, and into a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from iris.client.inspect.profile import FunctionShare
from iris.client.inspect.stacks import Frame
from iris.counts import counted

if TYPE_CHECKING:
    from iris.client.inspect.profile import Profile

_SHOWN_FUNCTIONS = 20
Stacks = Mapping[tuple[Frame, ...], int]


def function_shares(stacks: Stacks) -> list[FunctionShare]:
    """Return how many times each function was seen in the sampled call stacks. The functions whose own code ran most
    often come first.
    """
    own: dict[tuple[str, str], int] = {}
    total: dict[tuple[str, str], int] = {}
    for stack, samples in stacks.items():
        # The functions of a stack form a set, so that a recursive function counts once.
        for key in {(frame.function, frame.file) for frame in stack}:
            total[key] = total.get(key, 0) + samples
        if stack:
            innermost = stack[-1].function, stack[-1].file
            own[innermost] = own.get(innermost, 0) + samples
    shares = [FunctionShare(*key, own.get(key, 0), samples) for key, samples in total.items()]
    return sorted(shares, key=lambda one: (-one.self_samples, -one.total_samples, one.function, one.file))


def collapsed(stacks: Stacks) -> str:
    """Return one line for each stack: its frames with semicolons between them, and the number of samples."""
    lines = [f"{';'.join(_label(frame) for frame in stack)} {samples}\n" for stack, samples in stacks.items()]
    return "".join(sorted(lines))


def _label(frame: Frame) -> str:
    place = f" ({frame.file}:{frame.line})" if frame.file else ""
    return f"{frame.function}{place}".replace(";", ",").replace("\n", " ")


def speedscope(profile: Profile) -> str:
    """Return a profile as a JSON document in the file format of speedscope, see
    https://www.speedscope.app/file-format-schema.json.
    """
    positions: dict[Frame, int] = {}
    frames: list[dict[str, Any]] = []
    samples: list[list[int]] = []
    weights: list[float] = []
    for stack, count in sorted(profile.stacks.items()):
        for frame in stack:
            if frame not in positions:
                positions[frame] = len(frames)
                frames.append({"name": frame.function, "file": frame.file, "line": frame.line})
        samples.append([positions[frame] for frame in stack])
        weights.append(count / profile.rate)
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "iris",
        "name": profile.job_id,
        "activeProfileIndex": 0,
        "shared": {"frames": frames},
        "profiles": [
            {
                "type": "sampled",
                "name": f"{profile.job_id}: {counted(len(profile.tasks), 'task')}",
                "unit": "seconds",
                "startValue": 0,
                "endValue": sum(weights),
                "samples": samples,
                "weights": weights,
            }
        ],
    }
    return json.dumps(document)


def describe(profile: Profile) -> str:
    """Return a table of the most frequent functions, and the tasks without samples."""
    sampled = sum(1 for task in profile.tasks if not task.reason)
    samples = profile.samples
    lines = [
        f"job {profile.job_id}: {counted(samples, 'sample')} of {counted(sampled, 'task')} in"
        f" {counted(profile.seconds, 'second')}"
    ]
    if samples:
        lines += ["", "  SELF   TOTAL  FUNCTION"]
        for share in profile.functions()[:_SHOWN_FUNCTIONS]:
            lines.append(
                f"{share.self_samples / samples:6.1%}  {share.total_samples / samples:6.1%}  {share.function}"
                f"  {share.file}"
            )
        more = len(profile.functions()) - _SHOWN_FUNCTIONS
        if more > 0:
            lines.append(f"and {counted(more, 'more function')}")
    if hint := idle_hint(profile):
        lines += ["", hint]
    problems: dict[str, list[int]] = {}
    for task in profile.tasks:
        if task.reason:
            problems.setdefault(task.problem, []).append(task.task_index)
    if problems:
        lines.append("")
    lines += [f"no samples of {_tasks(indices)}: {problem}" for problem, indices in problems.items()]
    return "\n".join(lines)


def idle_hint(profile: Profile) -> str:
    """If the threads of the profile have mostly waited, return a text that names the option and the command that show
    waiting threads. Otherwise return an empty text. Threads have mostly waited if the profile has fewer than 1 % of the
    samples that a profile with one busy thread in each task has.
    """
    samples = profile.samples
    sampled = sum(1 for task in profile.tasks if not task.reason)
    if not sampled or samples * 100 >= max(profile.seconds, 1) * profile.rate * sampled:
        return ""
    found = "the threads used the CPU in fewer than 1% of the samples" if samples else "no thread used the CPU"
    return f"{found}: --idle counts threads that wait, and 'iris stack' shows where they wait"


def _tasks(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:10]))
    return f"task {shown}" if len(indices) == 1 else f"{len(indices)} tasks ({shown}{', …' if indices[10:] else ''})"

"""Finds out how long a Slurm job may still run. The controller's Slurm commands are in commands.py."""

from __future__ import annotations

import re
import subprocess
import sys

_TIMEOUT_S = 15.0
# The forms of the field %L of squeue: MM:SS, HH:MM:SS and D-HH:MM:SS.
_SPAN = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", re.ASCII)


def seconds_left(slurm_job_id: str) -> int | None:
    """Return the seconds until Slurm's time limit ends a job. Return None if the job has no limit, or if Slurm does not
    answer.
    """
    words = ["squeue", "--noheader", f"--jobs={slurm_job_id}", "--format=%L"]
    try:
        answer = subprocess.run(words, capture_output=True, timeout=_TIMEOUT_S, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    else:
        if not answer.returncode:
            return parse_span(answer.stdout.strip())
        problem = answer.stderr.strip()
    # The stderr of this process is the Slurm job's output file.
    print(f"the time limit of the job is unknown: {problem}", file=sys.stderr, flush=True)  # noqa: T201
    return None


def parse_span(text: str) -> int | None:
    """Return a span of time in seconds, from the form in which squeue prints it. Return None for a text that is not a
    span of time, such as UNLIMITED.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

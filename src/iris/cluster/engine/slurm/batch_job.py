"""What Slurm runs once for each gang, on the first of its machines: starts the slots, and tells how they are.

Its standard input is one JSON object: `slots`, how many; `srun`, its options; `options`, of each worker's command line;
`workers`, for each slot the worker's id and its credentials. These come in the job's script, which only its owner (and
Slurm's administrators) can read, and go to the slots by srun's standard input: they are on no command line, in no
environment and in no file of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import time
from dataclasses import replace
from typing import IO

from iris.cluster.engine.slurm.job_comment import Comment, count_slots
from iris.cluster.engine.slurm.slot_process import END_NOW
from iris.system.inherited import reset_signals

_LINE = re.compile(r"(began|ended) (\d+) (.*)")
_AGAIN_S = 1.0  # after slurmctld could not be told
# slurmctld that is killed forgets what it was told in the seconds before, a comment or a whole job: it is told again
# and again, and where it knows nothing of the job, nobody else would end it.
_REPEAT_S = (10.0, 60.0)
_OVER = ("already finished", "invalid job id")
_TELL_S = 15.0
_GIVE_UP_S = 600.0


def main() -> None:
    """Runs a gang to its end."""
    reset_signals()
    gang = json.load(sys.stdin)
    told = _Telling(os.environ["SLURM_JOB_ID"])
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        told.tell(Comment(why="Slurm has requeued it"), until_heard=True)
        return
    slot = [sys.executable, "-P", "-m", "iris.cluster.engine.slurm.slot_process"]
    srun = subprocess.Popen(
        ["srun", *gang["srun"], *slot], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert srun.stdin is not None
    with contextlib.suppress(BrokenPipeError), srun.stdin as pipe:
        pipe.write(json.dumps({"options": gang["options"], "workers": gang["workers"]}).encode())
    comment = _follow(srun, gang["slots"], os.environ["SLURM_JOB_NODELIST"], told)
    code = srun.wait()
    # Those of which nothing was heard need not have ended: srun may have lost their machine. Slurm finds out, and only
    # then calls the job ended.
    told.tell(replace(comment, why=comment.why or f"srun has ended with exit code {code}"), until_heard=True)


class _Telling:
    """Keeps the job's comment what it should be."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._wanted = self._heard = ""
        self._next_s = float("inf")
        self.is_over = False  # Slurm has done with the job

    @property
    def pause_s(self) -> float | None:
        """Until there is something to do; None: nothing."""
        left_s = self._next_s - time.monotonic()
        return None if left_s == float("inf") else max(0.0, left_s)

    def tell(self, comment: Comment, *, until_heard: bool = False) -> None:
        """It is to be this now. `until_heard`: returns when Slurm has it."""
        text = comment.to_text()
        if text != self._wanted:
            self._wanted, self._next_s = text, 0.0
        self.go_on()
        end_s = time.monotonic() + _GIVE_UP_S
        while until_heard and not self.is_over and self._heard != self._wanted and time.monotonic() < end_s:
            time.sleep(_AGAIN_S)
            self.go_on()

    def go_on(self) -> None:
        """Does what is due."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        is_repeat = self._heard == self._wanted
        words = ["scontrol", "update", f"JobId={self._job_id}", f"Comment={self._wanted}"]
        self._next_s = time.monotonic() + _AGAIN_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            answer = subprocess.run(words, capture_output=True, timeout=_TELL_S, check=False, text=True)
            if answer.returncode == 0:
                self._heard = self._wanted
                self._next_s = now_s + _REPEAT_S[is_repeat]
            elif any(text in answer.stderr.lower() for text in _OVER):
                self.is_over = True
                self._next_s = float("inf")


def _follow(srun: subprocess.Popen[bytes], slots: int, nodes: str, told: _Telling) -> Comment:
    """Reads what the slots and srun say, to the end, and tells what it means."""
    began: dict[int, str] = {}
    comment = Comment()
    streams = {stream.fileno(): stream for stream in (srun.stdout, srun.stderr) if stream is not None}
    rests = dict.fromkeys(streams, b"")
    ending = False
    while streams:
        readable, _, _ = select.select(list(streams), [], [], told.pause_s)
        for descriptor in readable:
            read = os.read(descriptor, 65536)
            *lines, rests[descriptor] = (rests[descriptor] + read).split(b"\n")
            for line in lines:
                comment = _take(line.decode(errors="replace"), comment, began, srun.stderr, streams[descriptor])
            if not read:
                del streams[descriptor]
        if len(began) == slots and not comment.counts:
            try:
                comment = replace(comment, counts=count_slots((began[rank] for rank in range(slots)), nodes))
            except ValueError as error:
                srun.terminate()
                comment = replace(comment, why=str(error))
        if comment != Comment():
            told.tell(comment)
        if told.is_over and not ending:
            ending = True
            srun.send_signal(END_NOW)  # which goes from srun to the machines, without slurmctld
    return comment


def _take(line: str, comment: Comment, began: dict[int, str], messages: IO[bytes] | None, stream: IO[bytes]) -> Comment:
    if stream is messages:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - into the job's own output, where there is one
        return comment if comment.why or not line.strip() else replace(comment, why=line.strip())
    match = _LINE.fullmatch(line)
    if match is None:
        return comment
    rank = int(match[2])
    if match[1] == "began":
        began[rank] = match[3]
        return comment
    return replace(comment, lost=comment.lost | {rank}, why=match[3])


if __name__ == "__main__":
    main()

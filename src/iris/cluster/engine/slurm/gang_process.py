"""The program that Slurm runs once for each gang, on the gang's first machine. The program starts the slots and reports
which slots have ended.

The standard input of the program is one JSON object with these keys:
* `slots`: the number of slots;
* `srun`: options of srun;
* `options`: additional arguments of each worker's command line;
* `workers`: for each slot, the worker's id and its credentials.

The credentials are part of the job's script, which only the job's owner and Slurm's administrators can read. The
credentials reach the slots through srun's standard input, and appear in no command line, environment, or other file.
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
from iris.cluster.engine.slurm.time_left import seconds_left
from iris.system.inherited import reset_signals

_LINE = re.compile(r"(began|ended) (\d+) (.*)")
_RETRY_S = 1.0  # The pause after a failed update of the job's comment.

# If slurmctld is killed, it forgets the updates and jobs of the last seconds. Therefore the job's comment is written
# again after 10 s, and then every 60 s. If slurmctld has forgotten the job itself, this program ends the job, because
# no other program would end it.
_REPEAT_S = (10.0, 60.0)
_OVER = ("already finished", "invalid job id")
_UPDATE_S = 15.0
_GIVE_UP_S = 600.0


def main() -> None:
    """Run a gang until it ends."""
    reset_signals()
    gang = json.load(sys.stdin)
    writer = _CommentWriter(os.environ["SLURM_JOB_ID"])
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        writer.write(Comment(why="Slurm has requeued the job"), until_stored=True)
        return
    slot = [sys.executable, "-P", "-m", "iris.cluster.engine.slurm.slot_process"]
    left_s = seconds_left(os.environ["SLURM_JOB_ID"])
    options = gang["options"] if left_s is None else [*gang["options"], "--allocation-left", str(left_s)]
    srun = subprocess.Popen(
        ["srun", *gang["srun"], *slot], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert srun.stdin is not None
    with contextlib.suppress(BrokenPipeError), srun.stdin as pipe:
        pipe.write(json.dumps({"options": options, "workers": gang["workers"]}).encode())
    comment = _follow(srun, gang["slots"], os.environ["SLURM_JOB_NODELIST"], writer)
    code = srun.wait()
    # A slot without a reported end may still run, because srun may have lost the connection to the slot's machine.
    # Slurm checks all machines before it ends the job.
    writer.write(replace(comment, why=comment.why or f"srun has ended with exit code {code}"), until_stored=True)


class _CommentWriter:
    """Writes the comment of the gang's Slurm job whenever the state of a slot changes."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._wanted = self._stored = ""
        self._next_s = float("inf")
        self.is_over = False  # Whether Slurm has reported that the job has ended.

    @property
    def pause_s(self) -> float | None:
        """The seconds until the next update is due, or None if no update is due."""
        left_s = self._next_s - time.monotonic()
        return None if left_s == float("inf") else max(0.0, left_s)

    def write(self, comment: Comment, *, until_stored: bool = False) -> None:
        """Set the job's comment. With `until_stored`, wait until Slurm has stored the comment, the job has ended, or 10
        minutes have passed.
        """
        text = comment.to_text()
        if text != self._wanted:
            self._wanted, self._next_s = text, 0.0
        self.update()
        end_s = time.monotonic() + _GIVE_UP_S
        while until_stored and not self.is_over and self._stored != self._wanted and time.monotonic() < end_s:
            time.sleep(_RETRY_S)
            self.update()

    def update(self) -> None:
        """Write the job's comment to Slurm if an update is due."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        is_repeat = self._stored == self._wanted
        words = ["scontrol", "update", f"JobId={self._job_id}", f"Comment={self._wanted}"]
        self._next_s = time.monotonic() + _RETRY_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            answer = subprocess.run(words, capture_output=True, timeout=_UPDATE_S, check=False, text=True)
            if answer.returncode == 0:
                self._stored = self._wanted
                self._next_s = now_s + _REPEAT_S[is_repeat]
            elif any(text in answer.stderr.lower() for text in _OVER):
                self.is_over = True
                self._next_s = float("inf")


def _follow(srun: subprocess.Popen[bytes], slots: int, nodes: str, writer: _CommentWriter) -> Comment:
    """Read the output of the slots and of srun until it ends, and keep the job's comment up to date.

    Returns:
        The last comment.
    """
    began: dict[int, str] = {}
    comment = Comment()
    streams = {stream.fileno(): stream for stream in (srun.stdout, srun.stderr) if stream is not None}
    rests = dict.fromkeys(streams, b"")
    ending = False
    while streams:
        readable, _, _ = select.select(list(streams), [], [], writer.pause_s)
        for descriptor in readable:
            read = os.read(descriptor, 65536)
            *lines, rests[descriptor] = (rests[descriptor] + read).split(b"\n")
            for line in lines:
                comment = _apply_line(line.decode(errors="replace"), comment, began, srun.stderr, streams[descriptor])
            if not read:
                del streams[descriptor]
        if len(began) == slots and not comment.counts:
            try:
                comment = replace(comment, counts=count_slots((began[rank] for rank in range(slots)), nodes))
            except ValueError as error:
                srun.terminate()
                comment = replace(comment, why=str(error))
        if comment != Comment():
            writer.write(comment)
        if writer.is_over and not ending:
            ending = True
            # srun passes the signal on to the slots on all machines, and slurmctld is not needed for this.
            srun.send_signal(END_NOW)
    return comment


def _apply_line(
    line: str, comment: Comment, began: dict[int, str], messages: IO[bytes] | None, stream: IO[bytes]
) -> Comment:
    if stream is messages:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - The stderr is the Slurm job's output file.
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

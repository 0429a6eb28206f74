"""Slurm as an engine: one batch job for each gang, with one worker daemon for each slot.

Slurm decides where and when, all or nothing. What there is to know of gangs is kept by Slurm itself, in the names of
the jobs, which a later controller finds again, and in their comments (job_comment.py). It is asked by its commands,
at most once in a while, and nothing is kept here but what was heard last.

What is Slurm's own:

* A slot has at least one CPU, also where none is asked for, and the memory that Slurm's configuration gives to who asks
  for none (`DefMemPerCPU`; without it that is all of the machine's). So what is not asked for does not always fit.
* The memory of a slot is that of its worker, too, which needs some 60 MB of it.
* How many CPUs, how much memory and how many GPUs a machine has, and what enforces it, is as Slurm is configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote

from iris.cluster.engine.base import GangRejectedError, GangRequest, GangState, GangStatus, Machine
from iris.cluster.engine.slurm import commands as commands
from iris.cluster.engine.slurm.job_status import is_final, is_waiting, status_of, waiting, worker_id
from iris.cluster.engine.slurm.slot_process import END_NOW
from iris.cluster.worker.controller_link.trust import WorkerCredentials
from iris.errors import UnavailableError
from iris.system.private_dir import inherited_umask, make_private
from iris.system.processes import happens

LOOK_S = 0.5
_COMMAND_S = 10.0
_AFTER_FAILURE_S = 10.0  # until a gang whose workers could not be started is asked for again
_CLOSE_S = 17.0  # for workers to end their tasks and hand over their logs
_AT_ONCE = 200  # jobs on one command line
_MAX_NAME = 1000  # Slurm takes 1,024 bytes
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Gang:
    """What was heard last of a gang.

    Attributes:
        job_id: The job's number.
        state: Slurm's word for the job's state.
        is_final: Slurm has done with it, and its room is free.
        forget_s: When a gang that never began is forgotten, so that it is asked for again.
    """

    job_id: str
    state: str
    status: GangStatus
    is_final: bool = False
    forget_s: float = 0.0


class SlurmEngine:
    """Places gangs on a cluster of Slurm.

    Args:
        directory: Where it keeps who it is: the names of its jobs begin with that.
        slurm_options: What sbatch is given, besides what Iris sets itself: `--partition=gpu`, `--account=me`.
        lease_s: For how long a worker lives that has not heard of its controller.
        worker_options: More of the worker's command line, see worker/wiring.py.
        credentials: What a worker of that id is to show, and whom it is to trust.
        look_s: How often Slurm is asked at most what there is.
        command_s: How long a command of Slurm's may take until it counts as out of reach.
        python: The interpreter that has Iris, on every machine.

    Raises:
        InvalidArgumentError: An option is none of sbatch's, or not the user's to set.
    """

    name = "slurm"
    # Its machines come and go: those that are down, drained or switched off return. What never fits, Slurm rejects.
    elastic = True
    shared_workers = False

    def __init__(
        self,
        directory: Path,
        *,
        slurm_options: Sequence[str] = (),
        lease_s: float,
        worker_options: Sequence[str] = (),
        credentials: Callable[[str], WorkerCredentials],
        look_s: float = LOOK_S,
        command_s: float = _COMMAND_S,
        python: str = sys.executable,
    ) -> None:
        commands.check_options(slurm_options)
        self._directory = directory
        self._options = tuple(slurm_options)
        self._worker_options = ["--lease", str(lease_s), "--host", "auto", *worker_options]
        self._credentials = credentials
        self._look_s = look_s
        self._command_s = command_s
        self._python = python
        self._env = commands.own_environment()
        self._cluster = ""
        self._partitions = commands.partitions_in(slurm_options)
        self.adopted = 0
        self._gangs: dict[str, _Gang] = {}
        self._released: set[str] = set()  # what Slurm still has of them is to end
        self._unclear: set[str] = set()  # gangs whose submission may have come to pass
        self._nodes: list[commands.NodeInfo] = []
        self._nodes_s = self._looked_s = float("-inf")
        self._error: UnavailableError | None = None
        self._look: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def start(self, controller_address: str) -> None:
        """Finds what an earlier life has left.

        Raises:
            FailedPreconditionError: Slurm's commands are missing, or its machines could not call the controller.
            UnavailableError: Slurm cannot be reached.
        """
        commands.check_installed()
        self._worker_options[:0] = ["--controller", controller_address]
        if not self._partitions:
            self._partitions = commands.default_partitions((await self._ask(commands.PARTITIONS)).out)
        await self._look_at_nodes()
        commands.check_reachable(controller_address, self._nodes)
        await self._find_again()

    async def _find_again(self) -> None:
        make_private(self._directory)
        self._cluster = _identity(self._directory / "slurm-cluster")
        await self._look_now()
        self.adopted = sum(len(gang.status.slots) for gang in self._gangs.values() if not gang.is_final)

    async def submit(self, gang: GangRequest) -> None:
        """See `Engine.submit`. A submission whose answer is lost is looked for before the next one."""
        gang_id = gang.gang_id
        if gang_id in self._unclear:
            await self._look_now()
        if gang_id in self._gangs:
            return
        name = self._prefix + quote(gang_id, safe="@/")
        if len(name) > _MAX_NAME:
            raise GangRejectedError(f"the job's name is too long for Slurm: {len(name)} of {_MAX_NAME} characters")
        words = commands.submission(gang, name, self._options)
        self._released.discard(gang_id)
        self._unclear.add(gang_id)
        answer = await commands.run(words, self._env, self._command_s, self._script(gang))
        if answer.code:
            if commands.is_not_now(answer):
                raise commands.unavailable("sbatch", answer)
            self._unclear.discard(gang_id)
            raise GangRejectedError(f"Slurm does not take it: {commands.said(answer)}")
        job_id = answer.out.strip().partition(";")[0]
        self._gangs[gang_id] = _Gang(job_id, "PENDING", waiting("None"))
        self._unclear.discard(gang_id)
        self._expire()

    async def release(self, gang_id: str) -> None:
        """See `Engine.release`."""
        if gang_id in self._unclear:
            await self._look_now()
        self._released.add(gang_id)
        gang = self._gangs.get(gang_id)
        if gang is not None and not gang.is_final:
            await self._end([gang.job_id])
        elif gang is not None:
            del self._gangs[gang_id]
        self._expire()

    async def snapshot(self) -> dict[str, GangStatus]:
        """See `Engine.snapshot`: what Slurm has said last, which is not older than `look_s`."""
        await self._look_if_due()
        if self._error is not None:
            raise self._error
        return {gang_id: gang.status for gang_id, gang in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        """The machines of the partition."""
        if _now_s() - self._nodes_s >= self._look_s:
            await self._look_at_nodes()
        held = Counter(slot.machine for gang in self._gangs.values() if not gang.is_final for slot in gang.status.slots)
        return [replace(node.machine, tasks=held[node.machine.name]) for node in self._nodes]

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when a look at Slurm has shown something new, or after the time."""
        end_s = _now_s() + timeout_s
        while not self._changed.is_set() and (left_s := end_s - _now_s()) > 0:
            looking = asyncio.ensure_future(self._look_if_due())
            due_s = max(0.0, self._looked_s + self._look_s - _now_s())
            await asyncio.wait([looking], timeout=left_s)
            if not looking.done():
                looking.cancel()  # the look itself goes on
                break
            await happens(self._changed, min(due_s or self._look_s, max(0.0, end_s - _now_s())))
        self._changed.clear()

    async def close(self) -> None:
        """Ends all of it: workers are told first, and have some seconds to end their tasks and hand over their logs."""
        try:
            await self._look_now()
            waiting = [gang.job_id for gang in self._gangs.values() if not gang.is_final and not gang.status.slots]
            running = [gang.job_id for gang in self._gangs.values() if not gang.is_final and gang.status.slots]
            await self._cancel(waiting)
            await self._cancel(running, "--signal=TERM")
            end_s = _now_s() + _CLOSE_S
            while self._are_alive() and _now_s() < end_s:
                await self.wait_for_change(self._look_s)
                await self._look_if_due()
            await self._end([gang.job_id for gang in self._gangs.values() if not gang.is_final])
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Lets go; what runs goes on."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    # What is asked of Slurm.

    @property
    def _prefix(self) -> str:
        return f"iris-{self._cluster}-"

    def _script(self, gang: GangRequest) -> str:
        """The batch job: a shell starts our program, and says so where it cannot."""
        ids = [worker_id(self._cluster, gang.gang_id, rank) for rank in range(gang.slots)]
        document = {
            "slots": gang.slots,
            "srun": commands.steps(gang),
            "options": self._worker_options,
            "workers": [(each, self._credentials(each).to_json()) for each in ids],
        }
        python = shlex.quote(self._python)
        umask = inherited_umask()
        # Slurm hands on the umask of who submits, which is this server's own: tasks get the user's.
        set_umask = f"umask {umask:04o}\n" if umask >= 0 else ""
        excuse = re.sub(r"[^\w./-]", "_", self._python)
        return (
            f"#!/bin/sh\n{set_umask}{python} -P -m iris.cluster.engine.slurm.batch_job <<'END_OF_IRIS' && exit 0\n"
            f"{json.dumps(document)}\nEND_OF_IRIS\n"
            'scontrol update "JobId=$SLURM_JOB_ID"'
            f' "Comment=iris:;;there is no {excuse} with Iris and its extra (server) on $SLURMD_NODENAME"\nexit 1\n'
        )

    async def _ask(self, words: Sequence[str]) -> commands.Answer:
        answer = await commands.run(words, self._env, self._command_s)
        if answer.code:
            raise commands.unavailable(words[0], answer)
        return answer

    async def _look_at_nodes(self) -> None:
        self._nodes = commands.read_nodes((await self._ask(commands.NODES)).out, self._partitions)
        self._nodes_s = _now_s()

    async def _end(self, job_ids: Sequence[str]) -> None:
        """Ends jobs at once: those that run by a signal to their slots, and in any case with what Slurm does to a job
        that is cancelled, SIGTERM, and after a while SIGKILL."""
        await self._cancel([f"{job_id}.0" for job_id in job_ids], f"--signal={END_NOW.name.removeprefix('SIG')}")
        await self._cancel(job_ids)

    async def _cancel(self, job_ids: Sequence[str], *options: str) -> None:
        for begin in range(0, len(job_ids), _AT_ONCE):
            words = ["scancel", *options, *job_ids[begin : begin + _AT_ONCE]]
            answer = await commands.run(words, self._env, self._command_s)
            if answer.code and not commands.is_no_such_job(answer):
                raise commands.unavailable("scancel", answer)

    # What Slurm says.

    def _expire(self) -> None:
        self._looked_s = self._nodes_s = float("-inf")

    async def _look_now(self) -> None:
        if self._look is not None:  # it may have been asked before what we want to know of
            await asyncio.gather(self._look, return_exceptions=True)
        self._expire()
        await self._look_if_due()
        if self._error is not None:
            raise self._error

    async def _look_if_due(self) -> None:
        """One look at a time, for all who want to know."""
        if self._look is None or self._look.done():
            if _now_s() - self._looked_s < self._look_s:
                return
            self._look = asyncio.create_task(self._take_look())
        await asyncio.shield(self._look)

    async def _take_look(self) -> None:
        before = {gang_id: gang.status for gang_id, gang in self._gangs.items()}, self._error is None
        self._looked_s = _now_s()
        try:
            known = dict(self._gangs)
            rows = commands.read_queue((await self._ask(commands.QUEUE)).out, self._prefix)
            self._error = None
            await self._take_rows(rows, known)
        except UnavailableError as error:
            self._error = error
        if before != ({gang_id: gang.status for gang_id, gang in self._gangs.items()}, self._error is None):
            self._changed.set()

    async def _take_rows(self, rows: Iterable[commands.Row], known: dict[str, _Gang]) -> None:
        """What the queue shows becomes what we know. What has come or gone since it was asked stays as it is."""
        found: dict[str, commands.Row] = {}
        too_many: list[str] = []
        for row in sorted(rows, key=lambda row: int(row.job_id)):
            gang_id = unquote(row.name.removeprefix(self._prefix))
            ended = is_final(row.state)
            if gang_id in self._released and gang_id not in known and not ended:
                too_many.append(row.job_id)  # its submission was slow, and nobody waits for it any more
            elif gang_id not in found or (is_final(found[gang_id].state) and not ended):
                found[gang_id] = row
            elif not ended:
                too_many.append(row.job_id)  # submitted twice, since the first answer was lost
        too_many += [row.job_id for gang_id, row in found.items() if self._ran(gang_id) and is_waiting(row.state)]
        if too_many:
            await self._end(too_many)
        if any(is_final(row.state) and not self._is_final(gang_id) for gang_id, row in found.items()):
            await self._look_at_nodes()
        for gang_id, row in found.items():
            self._take_row(gang_id, row)
        for gang_id, gang in known.items():
            if gang_id not in found and self._gangs.get(gang_id) is gang:
                self._take_absence(gang_id, gang)
        self._released &= found.keys() | self._unclear

    def _ran(self, gang_id: str) -> bool:
        return gang_id in self._gangs and bool(self._gangs[gang_id].status.slots)

    def _is_final(self, gang_id: str) -> bool:
        return gang_id in self._gangs and self._gangs[gang_id].is_final

    def _take_row(self, gang_id: str, row: commands.Row) -> None:
        gang = self._gangs.get(gang_id)
        if is_final(row.state) and gang_id in self._released:
            self._gangs.pop(gang_id, None)
            return
        if gang is not None and gang.is_final:
            self._take_absence(gang_id, gang)
            return
        known = None if gang is None else gang.status
        status = status_of(row, known, partial(worker_id, self._cluster, gang_id), self._nodes)
        if status is None:
            return
        # A job that would begin anew has ended for us: it is cancelled, and what is left of the old one told by leases.
        ended = is_final(row.state) or (status.state is GangState.BROKEN and is_waiting(row.state))
        if status.state is GangState.WAITING and ended:
            _log.warning("gang %s: %s", gang_id, status.reason)
            status = replace(status, reason=f"{status.reason}; it is asked for again in {_AFTER_FAILURE_S:g} s")
        self._gangs[gang_id] = _Gang(row.job_id, row.state, status, ended, _now_s() + _AFTER_FAILURE_S)

    def _take_absence(self, gang_id: str, gang: _Gang) -> None:
        """Slurm does not know its job, or has done with it. Where workers ran, it is broken until it is released: they
        need not all be dead. slurmctld that was killed forgets what it was told last, and has it ended later."""
        never_began = gang.status.state is GangState.WAITING and (not gang.is_final or gang.forget_s < _now_s())
        if gang_id in self._released or never_began:
            self._gangs.pop(gang_id)
        elif not gang.is_final:
            gang.is_final = True
            why = f"Slurm knows nothing of its job {gang.job_id} any more"
            gang.status = replace(gang.status, state=GangState.BROKEN, reason=why)

    def _are_alive(self) -> bool:
        return any(not gang.is_final and gang.state != "PENDING" for gang in self._gangs.values())


async def end_gangs(directory: Path) -> int:
    """Ends what a cluster whose server was killed has left in Slurm; answers with how many workers that were.
    UnavailableError: Slurm cannot be reached."""
    engine = SlurmEngine(directory, lease_s=0.0, credentials=lambda worker_id: WorkerCredentials(token="none"))
    await engine._find_again()
    await engine.close()
    return engine.adopted


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _identity(path: Path) -> str:
    """Who this cluster is, new where nobody has been here."""
    with contextlib.suppress(OSError):
        if known := path.read_text().strip():
            return known
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(secrets.token_hex(4))
    beside.rename(path)
    return path.read_text()

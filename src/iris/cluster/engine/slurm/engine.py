"""The engine for an existing Slurm cluster. The engine submits one batch job for each gang, with one worker daemon for
each slot.

Slurm decides when and where each gang runs, and allocates all of its slots or none. Slurm itself stores the state of
gangs, in the names and comments of their jobs (job_comment.py). The next engine finds the jobs by their names. This
engine queries Slurm by its commands, at most every half second, and keeps only the latest answer.

The Slurm engine differs from other engines in three ways:
* A slot has at least one CPU, even if the job requests none. A slot that requests no memory gets Slurm's configured
  default (`DefMemPerCPU`, or all of the machine's memory if that is not set). Therefore a gang that requests nothing
  may have to wait.
* The memory of a slot includes its worker, which needs about 60 MB.
* Slurm's configuration decides the capacity of each machine and how limits are enforced.
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
from iris.cluster.engine.slurm import commands
from iris.cluster.engine.slurm.job_status import is_final, is_waiting, status_of, waiting, worker_id
from iris.cluster.engine.slurm.slot_process import END_NOW
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.errors import UnavailableError
from iris.system.event_loop import happens
from iris.system.files import write_file
from iris.system.private_dir import inherited_umask, make_private

LOOK_S = 0.5
_COMMAND_S = 10.0
# The seconds after which a gang whose workers could not start is submitted again.
_AFTER_FAILURE_S = 10.0
# How long the workers have to end their tasks and to upload their logs when the engine closes.
_CLOSE_S = 17.0
# The largest number of jobs that one command line of Slurm may name.
_AT_ONCE = 200
# The largest number of bytes in the name of a Slurm job of Iris. Slurm accepts up to 1,024 bytes.
_MAX_NAME = 1000
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Gang:
    """The last known state of a gang.

    Attributes:
        job_id: The number of the gang's Slurm job.
        state: Slurm's word for the state of the job.
        status: The gang's status for the controller.
        is_final: Whether the job has ended and its resources are free.
        forget_s: When a gang that never started is forgotten, so that it is submitted again, in seconds of the event
            loop's clock.
    """

    job_id: str
    state: str
    status: GangStatus
    is_final: bool = False
    forget_s: float = 0.0


class SlurmEngine:
    """An engine that runs gangs on an existing Slurm cluster.

    Args:
        directory: The directory that stores the cluster's id. The names of the cluster's Slurm jobs begin with the id.
        slurm_options: Additional options of sbatch, for example `--partition=gpu` or `--account=me`.
        lease_s: The seconds after which a worker ends if it has not reached the controller.
        worker_options: Additional arguments of the worker's command line, see worker/arguments.py.
        credentials: A function that returns the credentials of a worker, given the worker's id: a token, and the
            controller's public key.
        look_s: The least number of seconds between two queries of Slurm.
        command_s: The seconds after which Slurm counts as unreachable if one of its commands has not returned.
        python: The path of the Python interpreter with Iris, the same on every machine.

    Raises:
        InvalidArgumentError: An option is not one of sbatch, or Iris sets the option itself.
    """

    name = "slurm"
    # The engine counts as elastic, because machines that are down, drained, or powered off may return. Slurm itself
    # rejects a gang that it can never allocate.
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
        # The ids of released gangs whose Slurm jobs may still exist and must be ended.
        self._released: set[str] = set()
        # The gangs that Slurm may have accepted, although the submission had no answer.
        self._unclear: set[str] = set()
        self._nodes: list[commands.NodeInfo] = []
        self._nodes_s = self._looked_s = float("-inf")
        self._error: UnavailableError | None = None
        self._look: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def start(self, controller_address: str) -> None:
        """Connect to Slurm and find the gangs that an earlier controller left there.

        Raises:
            FailedPreconditionError: Slurm's commands are missing, or its machines could not reach the controller.
            UnavailableError: Slurm cannot be reached.
        """
        commands.check_installed()
        self._worker_options[:0] = ["--controller", controller_address]
        if not self._partitions:
            self._partitions = commands.default_partitions((await self._ask(commands.PARTITIONS)).out)
        await self._refresh_nodes()
        commands.check_reachable(controller_address, self._nodes)
        await self._restore()

    async def _restore(self) -> None:
        make_private(self._directory)
        self._cluster = _load_or_make_id(self._directory / "slurm-cluster")
        await self._refresh_now()
        self.adopted = sum(len(gang.status.slots) for gang in self._gangs.values() if not gang.is_final)

    async def submit(self, gang: GangRequest) -> None:
        """Submit a gang, see `Engine.submit`. If Slurm did not answer an earlier submission of the gang, look for the
        gang's job first.
        """
        gang_id = gang.gang_id
        if gang_id in self._unclear:
            await self._refresh_now()
        if gang_id in self._gangs:
            return
        name = self._prefix + quote(gang_id, safe="@/")
        if len(name) > _MAX_NAME:
            raise GangRejectedError(
                f"the job's name is too long for Slurm: {len(name)} characters, at most {_MAX_NAME};"
                " choose a shorter name"
            )
        words = commands.submission(gang, name, self._options)
        self._released.discard(gang_id)
        self._unclear.add(gang_id)
        answer = await commands.run(words, self._env, self._command_s, self._script(gang))
        if answer.code:
            if commands.is_not_now(answer):
                raise commands.unavailable(program="sbatch", answer=answer)
            self._unclear.discard(gang_id)
            raise GangRejectedError(f"Slurm rejected the gang: {commands.said(answer)}")
        job_id = answer.out.strip().partition(";")[0]
        self._gangs[gang_id] = _Gang(job_id, "PENDING", waiting("None"))
        self._unclear.discard(gang_id)
        self._expire()

    async def release(self, gang_id: str) -> None:
        """Release a gang, see `Engine.release`."""
        if gang_id in self._unclear:
            await self._refresh_now()
        self._released.add(gang_id)
        gang = self._gangs.get(gang_id)
        if gang is not None and not gang.is_final:
            await self._end([gang.job_id])
        elif gang is not None:
            del self._gangs[gang_id]
        self._expire()

    async def snapshot(self) -> dict[str, GangStatus]:
        """Return all gangs, see `Engine.snapshot`. The result is Slurm's report from at most `look_s` seconds ago.

        Raises:
            UnavailableError: Slurm cannot be reached.
        """
        await self._refresh_if_due()
        if self._error is not None:
            raise self._error
        return {gang_id: gang.status for gang_id, gang in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        """Return the machines of the partitions that the engine submits to."""
        if _now_s() - self._nodes_s >= self._look_s:
            await self._refresh_nodes()
        held = Counter(slot.machine for gang in self._gangs.values() if not gang.is_final for slot in gang.status.slots)
        return [replace(node.machine, tasks=held[node.machine.name]) for node in self._nodes]

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until a query of Slurm has shown a change, but at most `timeout_s` seconds."""
        end_s = _now_s() + timeout_s
        while not self._changed.is_set() and (left_s := end_s - _now_s()) > 0:
            refresh = asyncio.ensure_future(self._refresh_if_due())
            due_s = max(0.0, self._looked_s + self._look_s - _now_s())
            await asyncio.wait([refresh], timeout=left_s)
            if not refresh.done():
                refresh.cancel()  # The query is shielded, so it continues even if this call is cancelled.
                break
            await happens(self._changed, min(due_s or self._look_s, max(0.0, end_s - _now_s())))
        self._changed.clear()

    async def close(self) -> None:
        """End all gangs. Workers have about 17 s to end their tasks and upload their logs."""
        try:
            await self._refresh_now()
            waiting = [gang.job_id for gang in self._gangs.values() if not gang.is_final and not gang.status.slots]
            running = [gang.job_id for gang in self._gangs.values() if not gang.is_final and gang.status.slots]
            await self._cancel(waiting)
            await self._cancel(running, "--signal=TERM")
            end_s = _now_s() + _CLOSE_S
            while self._are_alive() and _now_s() < end_s:
                await self.wait_for_change(self._look_s)
                await self._refresh_if_due()
            await self._end([gang.job_id for gang in self._gangs.values() if not gang.is_final])
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Stop querying Slurm. All gangs continue."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    # Commands to Slurm.

    @property
    def _prefix(self) -> str:
        return f"iris-{self._cluster}-"

    def _script(self, gang: GangRequest) -> str:
        """Return the script of a gang's Slurm job. The script runs gang_process.py. If Iris is not installed on the
        machine, the script writes the reason into the job's comment.
        """
        ids = [worker_id(self._cluster, gang.gang_id, rank) for rank in range(gang.slots)]
        document = {
            "slots": gang.slots,
            "srun": commands.steps(gang),
            "options": self._worker_options,
            "workers": [(each, self._credentials(each).to_json()) for each in ids],
        }
        python = shlex.quote(self._python)
        umask = inherited_umask()
        # Tasks need the user's umask. Without this line, Slurm would give them the umask of the server, because the
        # server submits the job.
        set_umask = f"umask {umask:04o}\n" if umask >= 0 else ""
        excuse = re.sub(r"[^\w./-]", "_", self._python)
        return (
            f"#!/bin/sh\n{set_umask}{python} -P -m iris.cluster.engine.slurm.gang_process <<'END_OF_IRIS' && exit 0\n"
            f"{json.dumps(document)}\nEND_OF_IRIS\n"
            'scontrol update "JobId=$SLURM_JOB_ID"'
            f' "Comment=iris:;;{excuse} with Iris and its extra (server) is missing on $SLURMD_NODENAME"\nexit 1\n'
        )

    async def _ask(self, words: Sequence[str]) -> commands.Answer:
        answer = await commands.run(words, self._env, self._command_s)
        if answer.code:
            raise commands.unavailable(words[0], answer)
        return answer

    async def _refresh_nodes(self) -> None:
        self._nodes = commands.read_nodes((await self._ask(commands.NODES)).out, self._partitions)
        self._nodes_s = _now_s()

    async def _end(self, job_ids: Sequence[str]) -> None:
        """End jobs at once.

        The slots of running jobs receive a signal and end all their processes. In addition, the jobs are cancelled, so
        Slurm sends SIGTERM and later SIGKILL to remaining processes.
        """
        await self._cancel([f"{job_id}.0" for job_id in job_ids], f"--signal={END_NOW.name.removeprefix('SIG')}")
        await self._cancel(job_ids)

    async def _cancel(self, job_ids: Sequence[str], *options: str) -> None:
        for begin in range(0, len(job_ids), _AT_ONCE):
            words = ["scancel", *options, *job_ids[begin : begin + _AT_ONCE]]
            answer = await commands.run(words, self._env, self._command_s)
            if answer.code and not commands.is_no_such_job(answer):
                raise commands.unavailable(program="scancel", answer=answer)

    # Queries of Slurm.

    def _expire(self) -> None:
        self._looked_s = self._nodes_s = float("-inf")

    async def _refresh_now(self) -> None:
        # A query that is already running may have begun before the latest change of the gangs. Therefore one more query
        # follows.
        if self._look is not None:
            await asyncio.gather(self._look, return_exceptions=True)
        self._expire()
        await self._refresh_if_due()
        if self._error is not None:
            raise self._error

    async def _refresh_if_due(self) -> None:
        """Query Slurm if the last answer is older than `look_s`. Concurrent callers share one query."""
        if self._look is None or self._look.done():
            if _now_s() - self._looked_s < self._look_s:
                return
            self._look = asyncio.create_task(self._refresh())
        await asyncio.shield(self._look)

    async def _refresh(self) -> None:
        before = {gang_id: gang.status for gang_id, gang in self._gangs.items()}, self._error is None
        self._looked_s = _now_s()
        try:
            known = dict(self._gangs)
            rows = commands.read_queue((await self._ask(commands.QUEUE)).out, self._prefix)
            self._error = None
            await self._apply_rows(rows, known)
        except UnavailableError as error:
            self._error = error
        if before != ({gang_id: gang.status for gang_id, gang in self._gangs.items()}, self._error is None):
            self._changed.set()

    async def _apply_rows(self, rows: Iterable[commands.Row], known: dict[str, _Gang]) -> None:
        """Update all gangs from Slurm's queue, and end superfluous jobs.

        Args:
            rows: The cluster's jobs in Slurm's queue.
            known: The gangs at the beginning of the query. Gangs that were submitted or released during the query are
                not changed.
        """
        found: dict[str, commands.Row] = {}
        too_many: list[str] = []
        for row in sorted(rows, key=lambda row: int(row.job_id)):
            gang_id = unquote(row.name.removeprefix(self._prefix))
            ended = is_final(row.state)
            if gang_id in self._released and gang_id not in known and not ended:
                # If a gang was released before its slow submission reached Slurm, its Slurm job is superfluous.
                too_many.append(row.job_id)
            elif gang_id not in found or (is_final(found[gang_id].state) and not ended):
                found[gang_id] = row
            elif not ended:
                # If a gang was submitted again after Slurm's first answer was lost, the gang has two Slurm jobs, and
                # the second job is superfluous.
                too_many.append(row.job_id)
        too_many += [row.job_id for gang_id, row in found.items() if self._ran(gang_id) and is_waiting(row.state)]
        if too_many:
            await self._end(too_many)
        if any(is_final(row.state) and not self._is_final(gang_id) for gang_id, row in found.items()):
            await self._refresh_nodes()
        for gang_id, row in found.items():
            self._apply_row(gang_id, row)
        for gang_id, gang in known.items():
            if gang_id not in found and self._gangs.get(gang_id) is gang:
                self._apply_absence(gang_id, gang)
        self._released &= found.keys() | self._unclear

    def _ran(self, gang_id: str) -> bool:
        return gang_id in self._gangs and bool(self._gangs[gang_id].status.slots)

    def _is_final(self, gang_id: str) -> bool:
        return gang_id in self._gangs and self._gangs[gang_id].is_final

    def _apply_row(self, gang_id: str, row: commands.Row) -> None:
        gang = self._gangs.get(gang_id)
        if is_final(row.state) and gang_id in self._released:
            self._gangs.pop(gang_id, None)
            return
        if gang is not None and gang.is_final:
            self._apply_absence(gang_id, gang)
            return
        known = None if gang is None else gang.status
        status = status_of(row, known, partial(worker_id, self._cluster, gang_id), self._nodes)
        if status is None:
            return
        # If Slurm has requeued a job, its gang counts as ended, and the job is cancelled. The job's earlier processes
        # may still run until the leases of their workers expire.
        ended = is_final(row.state) or (status.state is GangState.BROKEN and is_waiting(row.state))
        if status.state is GangState.WAITING and ended:
            _log.warning("gang %s: %s", gang_id, status.reason)
            status = replace(status, reason=f"{status.reason}; Iris submits it again in {_AFTER_FAILURE_S:g} s")
        self._gangs[gang_id] = _Gang(row.job_id, row.state, status, ended, _now_s() + _AFTER_FAILURE_S)

    def _apply_absence(self, gang_id: str, gang: _Gang) -> None:
        """Update a gang whose Slurm job has ended or is unknown to Slurm.

        If the gang's workers had started, the gang stays BROKEN until it is released, because some of the workers may
        be alive. For example, if slurmctld is killed, it forgets its latest jobs, but the processes of these jobs end
        later.
        """
        never_began = gang.status.state is GangState.WAITING and (not gang.is_final or gang.forget_s < _now_s())
        if gang_id in self._released or never_began:
            self._gangs.pop(gang_id)
        elif not gang.is_final:
            gang.is_final = True
            why = f"Slurm does not know the gang's job {gang.job_id} any more"
            gang.status = replace(gang.status, state=GangState.BROKEN, reason=why)

    def _are_alive(self) -> bool:
        return any(not gang.is_final and gang.state != "PENDING" for gang in self._gangs.values())


async def end_gangs(directory: Path) -> int:
    """End all workers and jobs that a killed server left in Slurm, and return how many workers there were.

    Raises:
        UnavailableError: Slurm cannot be reached.
    """
    engine = SlurmEngine(directory, lease_s=0.0, credentials=lambda worker_id: WorkerCredentials(token="none"))
    await engine._restore()
    await engine.close()
    return engine.adopted


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _load_or_make_id(path: Path) -> str:
    """Return the id of this cluster. The first call creates the id."""
    with contextlib.suppress(OSError):
        if known := path.read_text().strip():
            return known
    write_file(path, secrets.token_hex(4))
    return path.read_text()

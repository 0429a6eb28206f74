"""What waiting gangs, and who watches their jobs, are told of why they wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from iris.cluster.controller.jobs.job import Instruction
from iris.cluster.controller.jobs.job_record import JobRecord

_UNREACHABLE = "; the engine cannot be reached: "


class JobChanges(Protocol):
    """Where the scheduler reports that it has changed a job; the saver implements it."""

    def job_changed(self, record: JobRecord, instructions: Iterable[Instruction] = ()) -> None:
        """Save a job that has changed, announce the change to watchers, and carry out the instructions."""
        ...

    def reason_changed(self, record: JobRecord) -> None:
        """Note that only the reason why a gang waits has changed, which needs no saving."""
        ...


class Explanations:
    """Reasons, as they change.

    Args:
        jobs: By job id; the controller's own.
        changes: Where changed jobs are reported.

    Attributes:
        troubles: By job id, why it had room, and lost it before it started: said for as long as it waits again.
    """

    def __init__(self, jobs: Mapping[str, JobRecord], changes: JobChanges) -> None:
        self._jobs = jobs
        self._changes = changes
        self.troubles: dict[str, str] = {}
        self._explained: dict[str, JobRecord] = {}  # jobs of which a reason has changed, and nobody was told yet

    def explain(self, gang_id: str, reason: str) -> None:
        """A gang waits for this reason."""
        job_id = gang_id.rpartition("@")[0]
        trouble = self.troubles.get(job_id)
        self.say(gang_id, reason if trouble is None else f"{reason} (before: {trouble})")

    def add(self, gang_ids: Iterable[str], problem: str) -> None:
        """They wait for the reason that they had, and since the engine cannot be reached."""
        for gang_id in gang_ids:
            gang = self._jobs[gang_id.rpartition("@")[0]].job.gangs.get(gang_id)
            if gang is not None:
                before = gang.reason.partition(_UNREACHABLE)[0] or "waiting"
                self.say(gang_id, f"{before}{_UNREACHABLE}{problem}")

    def say(self, gang_id: str, reason: str) -> None:
        """It is told this, as it is."""
        record = self._jobs[gang_id.rpartition("@")[0]]
        if record.job.explain_waiting(gang_id, reason):
            self._changes.reason_changed(record)
            self._explained[record.job.job_id] = record

    def tell(self) -> None:
        """Once for each job, however many of its tasks wait."""
        explained, self._explained = self._explained, {}
        for record in explained.values():
            self._changes.job_changed(record)

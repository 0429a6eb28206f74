"""A model of the states, budgets and pauses of a job. The model states the promises to users and has no
instructions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from iris.cluster.controller.jobs.task import (
    FAILED,
    KILLED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
)

LIVE = 0  # an attempt that has not ended
FINAL = {SUCCEEDED, FAILED, KILLED, WORKER_FAILED, UNSCHEDULABLE}


class JobModel:
    """The promised state of a job. In the model, a task with a live attempt is RUNNING.

    Attributes:
        attempts: Of each task, how its attempts ended.
        charged: Of each task, its failed attempts and its lost ones, as they are charged to its two budgets.
        wanted: Of each task, what its attempt is being stopped for: "again", "gone" (by a user), "end"; else "".
        retried: The tasks that failed, or were lost, and for which the next attempt is.
        verdict: As what the job ends, where that is decided while something of it still runs.
    """

    def __init__(
        self,
        replicas: int,
        *,
        coscheduled: bool,
        tolerated: int,
        retries: int,
        preemptions: int,
        pause_ms: int,
        rendezvous: bool = False,
        retry_on: Collection[int] = (),
        fail_on: Collection[int] = (),
        waits_for: Mapping[str, str] | None = None,
    ) -> None:
        self.waits_for = dict(waits_for or {})
        self.retry_on, self.fail_on = retry_on, fail_on
        self.coscheduled = coscheduled
        self.rendezvous = rendezvous
        self.retried: set[int] = set()
        self.tolerated = tolerated
        self.budgets = {FAILED: retries, WORKER_FAILED: preemptions}
        self.pause_ms = pause_ms
        self.states = [PENDING] * replicas
        self.attempts: list[list[int]] = [[] for _ in range(replicas)]
        self.charged = [{FAILED: 0, WORKER_FAILED: 0} for _ in range(replicas)]
        self.wanted = [""] * replicas
        self.verdict: int | None = None
        self.row = [0] * replicas
        self.began_ms = [0] * replicas

    def live(self) -> list[int]:
        """Return the tasks that have a live attempt."""
        return [i for i, state in enumerate(self.states) if state == RUNNING]

    def dependency_ended(self, job_id: str, state: int | None) -> None:
        """Record that a job has ended for which this job may wait."""
        if job_id not in self.waits_for or self.is_final:
            return
        if self.waits_for[job_id] == "any" or state == SUCCEEDED:
            del self.waits_for[job_id]
        else:
            self.decide(UNSCHEDULABLE)

    def placed(self, indices: Iterable[int]) -> None:
        """Record that attempts of these tasks begin."""
        assert not self.waits_for
        for i in indices:
            assert self.states[i] == PENDING
            self.states[i] = RUNNING
            self.retried.discard(i)
            self.attempts[i].append(LIVE)
            self.began_ms[i] = 0

    def runs(self, i: int, attempt_id: int, now_ms: int) -> None:
        """Record that the process of an attempt runs."""
        if self.states[i] == RUNNING and attempt_id == len(self.attempts[i]) - 1:
            self.began_ms[i] = self.began_ms[i] or now_ms

    def over(self, ends: Mapping[int, int], at_ms: int, exit_code: int | None = None) -> None:
        """Record that the attempts of these tasks have ended at the same time, all with the same exit code."""
        retried, killed = [], False
        for i, how in ends.items():
            self.attempts[i][-1] = how
            wanted, self.wanted[i] = self.wanted[i], ""
            is_final_failure = how == FAILED and exit_code in self.fail_on
            if how == SUCCEEDED or (how == FAILED and wanted == "end"):
                self.states[i] = how
            elif is_final_failure and wanted in ("", "again"):
                self.charged[i][how] += 1
                self.states[i] = how
            elif wanted == "again":
                self.states[i] = PENDING
            elif wanted or how == KILLED:
                self.states[i] = KILLED
                killed |= not wanted
            else:
                self.charged[i][how] += 1
                again = self.charged[i][how] <= self.budgets[how]
                if how == FAILED and self.retry_on:
                    again = again and exit_code in self.retry_on
                self.states[i] = PENDING if again else how
                retried += [i] if again else []
        self.retried.update(retried)
        if self.states.count(FAILED) > self.tolerated:
            self.decide(FAILED)
        elif WORKER_FAILED in self.states:
            self.decide(WORKER_FAILED)
        elif killed:
            self.decide(KILLED)
        elif self.rendezvous and PENDING in self.states and SUCCEEDED in self.states:
            culprit = min(i for i in self.retried if self.states[i] == PENDING)
            self.states[culprit] = self.attempts[culprit][-1]
            self.decide(self.states[culprit])
        if self.verdict is None and retried:
            self._try_again(retried, at_ms)

    def _try_again(self, retried: list[int], at_ms: int) -> None:
        for group in [retried] if self.coscheduled else [[i] for i in retried]:
            ran_ms = max(at_ms - self.began_ms[i] if self.began_ms[i] else 0 for i in group)
            row = 1 if ran_ms >= 600_000 else max(self.row[i] for i in group) + 1
            peers = self.live() if self.coscheduled else []
            for i in [*group, *peers]:
                self.row[i] = row
            for i in peers:
                self.wanted[i] = self.wanted[i] or "again"

    def decide(self, verdict: int) -> None:
        """Decide the final state of the job."""
        if self.verdict is not None:
            return
        self.verdict = verdict
        for i, state in enumerate(self.states):
            if state == PENDING:
                self.states[i] = UNSCHEDULABLE if verdict == UNSCHEDULABLE else KILLED
            elif state == RUNNING and self.wanted[i] != "gone":
                self.wanted[i] = "end"

    def asked_to_end(self, verdict: int) -> None:
        """Record that a user or a timeout requests the end of the job."""
        if not self.is_final:
            self.decide(verdict)

    def terminate_task(self, i: int) -> None:
        """Record that a user terminates one task."""
        if self.states[i] in FINAL or self.verdict is not None:
            return
        if self.states[i] == PENDING:
            self.states[i] = KILLED
        else:
            self.wanted[i] = "gone"
        missing = [j for j, state in enumerate(self.states) if state in (FAILED, KILLED) or self.wanted[j] == "gone"]
        if self.coscheduled and len(missing) > self.tolerated:
            self.decide(KILLED)

    @property
    def is_final(self) -> bool:
        """Return whether the job is final, because all its tasks are final."""
        return all(state in FINAL for state in self.states)

    @property
    def end(self) -> int | None:
        """Return the final state of the job. None if the job has not ended."""
        if not self.is_final:
            return None
        if set(self.states) <= {SUCCEEDED, FAILED} and self.states.count(FAILED) <= self.tolerated:
            return SUCCEEDED
        return self.verdict or KILLED

    def longest_pause_ms(self, indices: Iterable[int]) -> int:
        """Return the longest possible pause before the retry of these tasks. The real pause is shorter by at most a
        fifth."""
        row = max(self.row[i] for i in indices)
        return 0 if row < 2 else min(60_000, self.pause_ms * 2 ** (row - 2))

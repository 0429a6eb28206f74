"""How commands find jobs: beginnings of ids, patterns, and `@` for the latest job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.cluster import unique

from iris.cli.cluster.lookup import Lookup, matches
from iris.client import IrisClient
from iris.cluster.types import state_name
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


class Jobs:
    """A list of jobs that answers as a client does.

    Args:
        ids: The ids, the oldest first. An id that ends with `!` is the id of a job that has ended.
        owners: The owner of each job.
    """

    def __init__(self, *ids: str, owners: dict[str, str] | None = None) -> None:
        self._jobs = [
            cluster_pb2.JobStatus(
                job_id=job_id.rstrip("!"),
                parent_job_id=job_id.rpartition("/")[0],
                owner=(owners or {}).get(job_id, ""),
                num_tasks=2,
                state=cluster_pb2.JOB_STATE_FAILED if job_id.endswith("!") else cluster_pb2.JOB_STATE_RUNNING,
            )
            for job_id in ids
        ]
        self.cluster = SimpleNamespace(token=lambda: "")

    def status(self, job_id: str) -> cluster_pb2.JobStatus:
        for job in self._jobs:
            if job.job_id == job_id:
                return job
        raise NotFoundError(f"there is no job named {job_id!r}")

    def list_jobs(
        self, *, id_prefix: str = "", states: Any = (), owner: str = "", newest_first: bool, limit: int | None = None
    ) -> list[cluster_pb2.JobStatus]:
        assert newest_first
        found = [
            job
            for job in reversed(self._jobs)
            if job.job_id.startswith(id_prefix)
            and (not states or state_name(job.state) in states)
            and owner in ("", job.owner)
        ]
        return found[:limit]


def names(jobs: Jobs, *words: str, **options: bool) -> list[str]:
    """The ids that words stand for."""
    return [target.name for target in Lookup(cast(IrisClient, jobs), **options).several(words)]


def test_id_of_a_job_stands_for_this_job_even_if_other_ids_begin_with_it() -> None:
    jobs = Jobs("train", "train-2", "a[1]", "a1", "task-0", "p", "p/task-0")
    assert names(jobs, "train", "train/task-1") == ["train", "train/task-1"]
    assert names(jobs, "a[1]") == ["a[1]"], "the id before the pattern"
    assert names(jobs, "p/task-0") == ["p/task-0"], "the child job before the task of p"


def test_beginning_of_exactly_one_job_id_stands_for_this_job() -> None:
    jobs = Jobs("train-1a", "train-2b", "train-2b/eval", "eval")
    assert names(jobs, "train-1", "train-2", "train-1/task-1") == ["train-1a", "train-2b", "train-1a/task-1"]
    assert names(jobs, "train-2b/e") == ["train-2b/eval"]


def test_beginning_of_several_job_ids_is_refused_with_the_candidates() -> None:
    jobs = Jobs("train-1a!", "train-2b", *(f"train-{i}" for i in range(30, 40)))
    with pytest.raises(InvalidArgumentError) as caught:
        names(jobs, "train")
    text = str(caught.value)
    assert text.startswith("'train' is the beginning of 12 job ids, give more of the id:\n  train-39 (RUNNING)\n")
    assert text.endswith("\n  … and 2 more")


def test_pattern_stands_for_all_matching_jobs_or_tasks() -> None:
    jobs = Jobs("sweep-1", "sweep-1/eval", "sweep-2!", "other")
    assert names(jobs, "sweep-*") == ["sweep-2", "sweep-1"]
    assert names(jobs, "sweep-*", live_only=True) == ["sweep-1"]
    assert names(jobs, "sweep-?/e*") == ["sweep-1/eval"]
    assert names(jobs, "sweep-[12]/task-1") == ["sweep-2/task-1", "sweep-1/task-1"]
    assert names(jobs, "other/task-*", "other") == ["other/task-0", "other/task-1", "other"]
    for pattern, options in (("swoop-*", {}), ("sweep-2*", {"live_only": True}), ("other/task-7*", {})):
        with pytest.raises(NotFoundError, match="the pattern"):
            names(jobs, pattern, **options)


def test_pattern_matches_each_part_of_a_job_id_separately() -> None:
    assert matches("a/b", "a/*")
    assert matches("a/b", "*/b")
    assert not matches("a/b", "*")
    assert not matches("a", "A")


def test_at_sign_or_no_name_stands_for_the_latest_root_job() -> None:
    jobs = Jobs("first", "last", "last/child")
    assert names(jobs) == names(jobs, "@") == ["last"]
    assert names(jobs, "@/task-1") == ["last/task-1"]
    with pytest.raises(NotFoundError, match="its tasks are 0 to 1"):
        names(jobs, "@/task-2")
    with pytest.raises(NotFoundError, match="there is no job"):
        names(Jobs())


def test_unknown_job_name_is_refused_with_similar_job_ids() -> None:
    with pytest.raises(NotFoundError, match=r"did you mean spelling\?"):
        names(Jobs("spelling"), "spellling")
    with pytest.raises(NotFoundError, match="'iris ps --all' shows all jobs"):
        names(Jobs("spelling"), "xyz")
    with pytest.raises(NotFoundError, match=r"did you mean spelling/task-1\?"):
        names(Jobs("spelling"), "spelling/1")


def test_commands_accept_beginnings_patterns_and_the_latest_job(remote_iris: Iris) -> None:
    base = unique("names")
    for word in ("alpha", "beta"):
        remote_iris("run", "--detach", "--name", f"{base}-{word}", "--", "sh", "-c", f"echo {word}")
        remote_iris.wait_for(f"{base}-{word}", "SUCCEEDED")  # The lines of several jobs are shown in the order of time.
    assert remote_iris("wait", f"{base}-*").stdout.count("SUCCEEDED") == 2
    assert remote_iris.json("status", f"{base}-a")["job_id"] == f"{base}-alpha"
    assert remote_iris.json("status")["job_id"] == remote_iris.json("status", "@")["job_id"] == f"{base}-beta"
    assert [job["job_id"] for job in remote_iris.json("status", f"{base}-*")["jobs"]] == [
        f"{base}-beta",
        f"{base}-alpha",
    ]
    assert "beginning of 2 job ids" in remote_iris("status", f"{base}-", code=1).stderr
    for words in ([], ["-f"]):
        done = remote_iris("logs", *words, f"{base}-*", "--source", "stdout")
        assert done.stdout.splitlines() == [f"{base}-alpha | alpha", f"{base}-beta  | beta"]
    lines = remote_iris.lines(f"{base}-alpha", f"{base}-beta/task-0")
    assert [(line["job"], line["task"], line["message"]) for line in lines] == [
        (f"{base}-alpha", 0, "alpha"),
        (f"{base}-beta", 0, "beta"),
    ]
    assert "--raw needs exactly one JOB, got 2" in remote_iris("logs", f"{base}-*", "--raw", code=2).stderr
    assert remote_iris("stop", f"{base}-al").stdout == f"{base}-alpha had ended: SUCCEEDED\n"

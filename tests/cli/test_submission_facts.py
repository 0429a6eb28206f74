"""The facts about a submission in `iris describe`."""

from __future__ import annotations

import pytest

from iris.cli.output.submission_facts import submission_document, submission_facts
from iris.rpc import cluster_pb2

Controller = cluster_pb2.Controller


def answer_for(*, independent: bool, cpu: int | None = None) -> Controller.GetSubmissionResponse:
    """Return the submission of a command of three tasks."""
    submission = Controller.LaunchJobRequest(command=["true"], independent_tasks=independent)
    submission.resources.replicas = 3
    if cpu is not None:
        submission.resources.cpu = cpu
    return Controller.GetSubmissionResponse(submission=submission)


@pytest.mark.parametrize(
    ("independent", "cpu", "words", "millicores"),
    [
        (True, None, "1 cpu (an independent task that requests nothing counts as one core)", 1000),
        (True, 0, "reserves nothing", 0),
        (True, 2, "2 cpu", 2000),
        (False, None, "reserves nothing", 0),
    ],
)
def test_resources_of_each_task_include_the_core_that_an_independent_task_gets_by_default(
    independent: bool, cpu: int | None, words: str, millicores: int
) -> None:
    answer = answer_for(independent=independent, cpu=cpu)
    assert dict(submission_facts(answer))["each task"] == words
    assert submission_document(answer)["cpu_millicores"] == millicores


def test_other_jobs_and_the_warning_before_a_timeout_are_facts_about_a_submission() -> None:
    answer = answer_for(independent=False)
    answer.submission.timeout_warning_seconds = 60
    answer.submission.after.add(job_id="a")
    answer.submission.after.add(job_id="b", condition=cluster_pb2.DEPENDENCY_CONDITION_ENDED)
    facts, document = dict(submission_facts(answer)), submission_document(answer)
    assert (facts["after"], facts["limits"]) == (
        "a (its success), b (its end)",
        "SIGUSR1 1m before an attempt is ended",
    )
    assert (document["after"], document["timeout_warning_seconds"]) == ({"a": "ok", "b": "any"}, 60)


def test_one_task_and_one_variable_are_written_in_the_singular() -> None:
    answer = answer_for(independent=True)
    answer.submission.max_task_failures = 1
    answer.submission.environment.env_vars["A"] = "1"
    answer.submission.environment.complete = True
    facts = dict(submission_facts(answer))
    assert facts["may fail"] == "1 task"
    assert "retries" not in facts
    assert facts["variables"] == "the whole environment of the shell, 1 variable"

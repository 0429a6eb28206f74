"""The text of `iris retry --edit` for a job that has the whole environment of a shell."""

from __future__ import annotations

import pytest

from iris.cli.commands.submission.run import run
from iris.cli.job_files.edited_submission import read_edited, write_submission
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2

Controller = cluster_pb2.Controller


@pytest.fixture
def answer() -> Controller.GetSubmissionResponse:
    """The submission of a command with the environment of a shell."""
    submission = Controller.LaunchJobRequest(command=["true"])
    submission.environment.complete = True
    submission.environment.env_vars.update({"HOME": "", "LR": "", "SECRET": ""})
    return Controller.GetSubmissionResponse(submission=submission)


def test_variables_of_a_shell_are_named_in_a_comment_and_all_are_kept(answer: Controller.GetSubmissionResponse) -> None:
    text = write_submission(answer)
    assert "# HOME, LR, SECRET\n" in text
    assert "\nenv = " not in text
    edited = read_edited(text, run, answer.submission)
    assert (edited.kept, edited.variables) == ({"HOME", "LR", "SECRET"}, {})


def test_variable_that_is_set_in_the_text_replaces_only_its_own_value(answer: Controller.GetSubmissionResponse) -> None:
    text = write_submission(answer) + 'env = ["LR=2", "MORE=3", "SECRET"]\n'
    edited = read_edited(text, run, answer.submission)
    assert (edited.kept, edited.variables) == ({"HOME", "SECRET"}, {"LR": "2", "MORE": "3"})
    with pytest.raises(InvalidArgumentError, match="the earlier job has no variable 'NOPE'"):
        read_edited(write_submission(answer) + 'env = ["NOPE"]\n', run, answer.submission)


def test_variable_that_is_removed_from_the_list_of_a_job_without_a_shell_is_not_kept(
    answer: Controller.GetSubmissionResponse,
) -> None:
    answer.submission.environment.complete = False
    text = write_submission(answer)
    assert 'env = ["HOME", "LR", "SECRET"]' in text
    edited = read_edited(text.replace('"LR", ', ""), run, answer.submission)
    assert edited.kept == {"HOME", "SECRET"}

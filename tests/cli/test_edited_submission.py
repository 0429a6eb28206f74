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


def test_edited_job_keeps_all_variables_of_the_shell_and_names_them_in_a_comment(
    answer: Controller.GetSubmissionResponse,
) -> None:
    text = write_submission(answer)
    assert "# HOME, LR, SECRET\n" in text
    assert "\nenv = " not in text
    edited = read_edited(text, run, answer.submission)
    assert (edited.kept, edited.variables) == ({"HOME", "LR", "SECRET"}, {})


def test_edited_job_with_one_changed_variable_keeps_the_other_variables(
    answer: Controller.GetSubmissionResponse,
) -> None:
    text = write_submission(answer) + 'env = ["LR=2", "MORE=3", "SECRET"]\n'
    edited = read_edited(text, run, answer.submission)
    assert (edited.kept, edited.variables) == ({"HOME", "SECRET"}, {"LR": "2", "MORE": "3"})
    with pytest.raises(InvalidArgumentError, match="the earlier job has no variable 'NOPE'"):
        read_edited(write_submission(answer) + 'env = ["NOPE"]\n', run, answer.submission)


@pytest.mark.parametrize("line", ['after = ["other"]', 'workspace = "."', "detach = true"])
def test_edited_job_with_a_key_that_cannot_be_changed_is_refused(
    answer: Controller.GetSubmissionResponse, line: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{line.partition(' ')[0]} cannot be changed here"):
        read_edited(f"{write_submission(answer)}{line}\n", run, answer.submission)


def test_edited_job_lacks_a_variable_that_was_removed_from_its_list(
    answer: Controller.GetSubmissionResponse,
) -> None:
    answer.submission.environment.complete = False
    text = write_submission(answer)
    assert 'env = ["HOME", "LR", "SECRET"]' in text
    edited = read_edited(text.replace('"LR", ', ""), run, answer.submission)
    assert edited.kept == {"HOME", "SECRET"}

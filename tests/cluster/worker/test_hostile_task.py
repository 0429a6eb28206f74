"""A task that leaves something other than a result where its worker expects the result."""

from __future__ import annotations

import pytest
from support.cluster import wait_for_end

from iris.client import IrisClient
from iris.cluster.pickles.transfer_limits import MAX_RESULT_BYTES
from iris.errors import ResultError
from iris.rpc import cluster_pb2


def leave_instead(name: str, what: str) -> None:
    """Create something at a path beside the task's directory, and end before the result is written."""
    import os

    path = os.path.join("..", name)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        os.mkdir(path)
    elif what == "link":
        os.symlink("/dev/zero", path)
    elif what == "huge":
        with open(path, "wb") as file:
            file.truncate(50 * 1024**3)
    elif what == "escape":
        with open(path, "w") as file:
            file.write("\x1b[31mred" + "x" * 10_000)
    os._exit(3 if name == "result.failure" else 0)


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "huge"])
def test_a_result_file_that_is_not_a_regular_file_is_no_result(client: IrisClient, what: str) -> None:
    job = client.run(leave_instead, args=["result", what])
    assert wait_for_end(client.cluster, job.job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED
    with pytest.raises(
        ResultError,
        match=r"the result cannot be read: (the file )?result (is not a regular file|cannot be read|is over the limit)",
    ):
        job.results()


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "huge", "escape"])
def test_a_failure_file_that_is_not_a_short_text_is_not_shown(client: IrisClient, what: str) -> None:
    job = client.run(leave_instead, args=["result.failure", what])
    status = wait_for_end(client.cluster, job.job_id)
    assert status.state == cluster_pb2.JOB_STATE_FAILED
    if what == "escape":
        assert "\\x1b[31mred" in status.error
    else:
        assert "exit code 3" in status.error
    assert "\x1b" not in status.error
    assert len(status.error) < 5000


def large_result() -> bytes:
    return bytes(MAX_RESULT_BYTES - 100)


def test_result_of_the_largest_allowed_size_reaches_the_client(client: IrisClient) -> None:
    job = client.run(large_result)
    assert job.results(timeout=60) == [bytes(MAX_RESULT_BYTES - 100)]

"""`iris run --output`, `iris outputs`, and `iris cp` of stored outputs."""

from __future__ import annotations

from typing import Any

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_stored_outputs_are_listed_and_copied(remote_iris: Iris) -> None:
    (remote_iris.folder / "space").mkdir()
    options = ("--output", "out", "-n", "2", "--workspace", "space", "--independent", "--max-task-failures", "2")
    job = remote_iris.detach("echo $IRIS_TASK_INDEX > $IRIS_OUTPUT_DIR/index; exit $IRIS_TASK_INDEX", *options)
    remote_iris("wait", job, code=None)
    document = remote_iris.json("outputs", job)
    assert [(file["task_id"], file["path"], file["size"]) for file in document["outputs"]] == [
        (f"{job}/task-{index}", "out/index", 2) for index in range(2)
    ]
    assert document["missing"] == []
    assert "out/index" in remote_iris("outputs", f"{job}/task-1").stdout
    remote_iris("cp", f"{job}:", "here")
    assert [(remote_iris.folder / f"here/task-{index}/out/index").read_text() for index in range(2)] == ["0\n", "1\n"]
    assert remote_iris("cp", f"{job}/task-1:out/index", "-").stdout == "1\n"
    assert remote_iris.json("describe", job)["submission"]["outputs"] == ["out"]
    assert "must be a directory, not a pattern" in remote_iris("run", "--output", "*.csv", "true", code=2).stderr


def test_missing_outputs_are_reported_with_their_reason(remote_iris: Iris) -> None:
    job = remote_iris.detach("sleep 1000", "--output", "out")
    remote_iris("kill", "--wait", job)
    done = remote_iris("outputs", job, code=1)
    assert f"{job}/task-0, attempt 0: the outputs are not stored: the attempt was terminated" in done.stderr
    plain = remote_iris.detach("true")
    remote_iris("wait", plain)
    assert "submitted without outputs" in remote_iris("outputs", plain, code=1).stderr

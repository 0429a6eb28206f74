"""Every task id has a safe folder of its own in the worker's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from iris.cluster.worker.paths import AttemptDir, WorkerDir


@pytest.fixture
def worker(tmp_path: Path) -> WorkerDir:
    return WorkerDir(tmp_path / "a" / "worker")


TASK_IDS = [
    "x/task-0",
    "x/task-1",
    "x/task-10",
    "X/task-0",
    "x_task-0/task-0",
    "x/task-0/task-0",
    "parent/child/task-0",
    "parent_child/task-0",
    "../../etc/task-0",
    "../task-0",
    "./task-0",
    "..",
    ".",
    "/etc/passwd/task-0",
    "//task-0",
    "~/task-0",
    "a\0b/task-0",
    "a b/task-0",
    "$(touch x)/task-0",
    "é/task-0",
    "è/task-0",
    "日本/task-0",
    "-rf/task-0",
    "x" * 300 + "/task-0",
    "x" * 300 + "/task-1",
    "x" * 10_000 + "/task-0",
]


def test_the_worker_directory_is_created_and_private(worker: WorkerDir, tmp_path: Path) -> None:
    assert (tmp_path / "a" / "worker").stat().st_mode & 0o777 == 0o700


def test_every_task_has_its_own_folder_below_the_root(worker: WorkerDir, tmp_path: Path) -> None:
    root = tmp_path / "a" / "worker" / "attempts"
    places = {}
    for task_id in TASK_IDS:
        path = worker.attempt(task_id, 3).path
        assert path.resolve().is_relative_to(root)
        assert path.parent.parent == root
        assert path.name == "3"
        worker.attempt(task_id, 3).create()  # names that the file system takes
        places[path.resolve()] = task_id
    assert len(places) == len(TASK_IDS)


def test_folders_of_tasks_differ_on_case_insensitive_file_systems(worker: WorkerDir) -> None:
    names = [worker.attempt(task_id, 0).path.parent.name.lower() for task_id in TASK_IDS]
    assert len(set(names)) == len(names)


def test_folder_name_of_a_task_is_readable_and_never_changes(worker: WorkerDir, tmp_path: Path) -> None:
    path = worker.attempt("train/task-3", 1).path
    assert path.parent.name.startswith("train_task-3-")
    assert WorkerDir(tmp_path / "a" / "worker").attempt("train/task-3", 1).path == path


def test_paths_of_an_attempt_are_distinct_and_inside_its_directory(worker: WorkerDir) -> None:
    attempt = worker.attempt("x/task-0", 0)
    paths = [
        attempt.log,
        attempt.work,
        attempt.entrypoint,
        attempt.result,
        attempt.result_error,
        attempt.failure,
    ]
    assert len(set(paths)) == 6
    assert {path.parent for path in paths} == {attempt.path}
    assert not attempt.path.exists()  # to ask makes nothing


def test_creating_an_attempt_directory_replaces_an_earlier_directory(worker: WorkerDir) -> None:
    attempt = worker.attempt("x/task-0", 0)
    attempt.create()
    assert attempt.path.is_dir()
    assert list(attempt.path.iterdir()) == []
    attempt.work.mkdir()
    (attempt.work / "left").write_text("by an earlier worker")
    attempt.log.write_text("log")
    attempt.create()
    assert list(attempt.path.iterdir()) == []


def test_creating_an_attempt_directory_keeps_the_directories_of_other_attempts(worker: WorkerDir) -> None:
    for attempt_id in (0, 1):
        worker.attempt("x/task-0", attempt_id).create()
        worker.attempt("x/task-0", attempt_id).log.write_text(f"log {attempt_id}")
    worker.attempt("x/task-0", 1).create()
    assert worker.attempt("x/task-0", 0).log.read_text() == "log 0"
    assert not worker.attempt("x/task-0", 1).log.exists()


def test_creating_an_attempt_directory_does_not_follow_a_link(worker: WorkerDir, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("data")
    attempt = worker.attempt("x/task-0", 0)
    attempt.create()
    attempt.work.symlink_to(precious)
    attempt.create()
    assert (precious / "data").read_text() == "data"
    assert not attempt.work.exists()


def test_attempt_ids_of_a_task_are_listed_in_ascending_order(worker: WorkerDir) -> None:
    assert worker.attempt_ids("x/task-0") == []
    for attempt_id in (10, 0, 9, 2):
        worker.attempt("x/task-0", attempt_id).create()
    worker.attempt("x/task-1", 5).create()
    (worker.attempt("x/task-0", 0).path.parent / "notes").touch()
    assert worker.attempt_ids("x/task-0") == [0, 2, 9, 10]
    assert worker.attempt_ids("x/task-1") == [5]


def test_the_path_of_a_workspace_contains_its_hash(worker: WorkerDir, tmp_path: Path) -> None:
    assert worker.bundle("ab" * 32) == tmp_path / "a" / "worker" / "bundles" / ("ab" * 32)
    assert worker.bundle("ab" * 32) != worker.bundle("cd" * 32)


def test_attempt_directory_objects_with_equal_paths_compare_equal() -> None:
    assert AttemptDir(Path("/a")) == AttemptDir(Path("/a"))

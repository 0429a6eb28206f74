"""`iris debug bundle`: the files in the bundle of a running and of a dead server, and the absence of secrets."""

from __future__ import annotations

import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.cluster import is_alive
from support.waiting import wait_until

from iris.cli.cluster.support_bundle import redact

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def contents(path: Path) -> dict[str, str]:
    """The files of a bundle, by their names below its folder."""
    with tarfile.open(path) as archive:
        found = {}
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = file.read().decode()
        return found


def secrets_in(state_dir: Path) -> list[str]:
    """The lines of the token, of the server key, and of the certificate of the cluster's parts."""
    lines = [line for name in ("token", "token-key") for line in (state_dir / name).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("-----")]


def test_support_bundle_of_a_running_cluster_contains_all_files_without_secrets(iris: Iris) -> None:
    location = "file://user:geheim@localhost/logs"
    up = iris.json("up", "--port", "0", "--label", "zone=a")
    job = iris.detach("true")
    iris.wait_for(job, "SUCCEEDED")
    state_dir = Path(up["state_dir"])
    secrets = secrets_in(state_dir)
    with (state_dir / "server.log").open("a") as log:  # as if a bug had written them there
        log.write(f"{secrets} {location} Authorization: Bearer {secrets[0]}\n")
    made = iris.json("debug", "bundle", "--output", "b.tar.gz")
    assert made["path"] == str(iris.folder / "b.tar.gz")
    assert made["notes"] == []
    files = contents(iris.folder / "b.tar.gz")
    assert set(files) == {
        "README.txt",
        "versions.json",
        "config.json",
        "states.json",
        "machines.json",
        "events/server.log",
        "events/workers/local-0.log",
        "notes.txt",
    }
    assert json.loads(files["config.json"])["labels"] == ["zone=a"]
    assert json.loads(files["states.json"])["jobs"] == {"SUCCEEDED": 1}
    assert json.loads(files["machines.json"])["machines"][0]["labels"] == {"zone": "a"}
    assert f"job.state job_id={job} state=SUCCEEDED" in files["events/server.log"]
    assert "Thread 0x" in files["events/server.log"], "the stacks of the server's threads"
    assert "in Scheduler.run\n" in files["events/server.log"], "the stacks of the server's asyncio tasks"
    everything = "\n".join(files.values())
    assert [secret for secret in (*secrets, "geheim") if secret in everything] == []
    assert os.stat(iris.folder / "b.tar.gz").st_mode & 0o777 == 0o600


def test_support_bundle_of_a_dead_server_is_made_from_its_state_directory(iris: Iris) -> None:
    up = iris.json("up", "--port", "0")
    job = iris.detach("true")
    iris.wait_for(job, "SUCCEEDED")
    os.kill(up["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(up["pid"]), "the end of the server")
    done = iris("debug", "bundle")
    assert "not in the bundle: the server of this cluster does not run" in done.stderr
    (path,) = iris.folder.glob("iris-debug-*.tar.gz")
    assert done.stdout == f"{path.name}\n"
    files = contents(path)
    assert json.loads(files["states.json"]) == {"jobs": {"SUCCEEDED": 1}, "tasks": {"SUCCEEDED": 1}}
    assert f"job.state job_id={job} state=SUCCEEDED" in files["events/server.log"]
    assert "machines.json" not in files
    assert "the server of this cluster does not run" in files["notes.txt"]


def test_support_bundle_of_a_cluster_on_another_machine_has_states_and_machines(remote_iris: Iris) -> None:
    made = remote_iris.json("debug", "bundle")
    assert made["files"] == ["machines.json", "states.json", "versions.json"]


def test_error_for_a_bundle_that_cannot_be_written_names_the_option(iris: Iris) -> None:
    assert "name another file with --output" in iris("debug", "bundle", "--output", "no/such/folder", code=1).stderr


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("token eyJhbGciOiJFZERTQSJ9.eyJzdWIi.c2ln end", "token [removed] end"),
        ("a\n-----BEGIN PRIVATE KEY-----\nMC4\n-----END PRIVATE KEY-----\nb", "a\n[removed]\nb"),
        ('"log_location": "s3://key:pass@bucket/logs"', '"log_location": "s3://[removed]@bucket/logs"'),
        ("Authorization: Basic", "Authorization: [removed]"),
        ("the known one", "the [removed] one"),
        ("http://127.0.0.1:5000 user@host", "http://127.0.0.1:5000 user@host"),
    ],
)
def test_secret_is_removed_from_a_text(text: str, redacted: str) -> None:
    assert redact(text, ["known"]) == redacted

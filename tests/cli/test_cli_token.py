"""`iris token`, and the protection of the token that `iris up` makes."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from support.cluster import launch, shell, wait_for_state
from support.forked_servers import REAL_START
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def state_of(iris: Iris) -> Path:
    path: Path = iris.home / "state" / "iris"
    return path


def test_tokens_are_created_listed_and_revoked(iris: Iris) -> None:
    up = iris.json("up", "--port", "0")
    made = iris("token", "create", "ana", "--ttl", "2h")
    secret = made.stdout.strip()
    assert len(secret.splitlines()) == 1
    assert "iris token revoke" in made.stderr
    assert secret not in made.stderr
    document = iris.json("token", "create", "dashboard", "--role", "reader")
    assert (document["name"], document["role"], document["revoked_at_ms"]) == ("dashboard", "reader", None)
    assert document["expires_at_ms"] - document["created_at_ms"] == 30 * 86400 * 1000

    listed = iris.json("token", "list")["tokens"]
    assert [(known["name"], known["role"]) for known in listed[1:]] == [("ana", "user"), ("dashboard", "reader")]
    assert listed[0]["role"] == "admin", "that of iris up"
    shown = iris("token", "list").stdout
    assert "ana" in shown
    assert secret not in shown + json.dumps(listed)

    # As somebody else, on another machine: with the address and the secret, and no file.
    elsewhere = {"XDG_STATE_HOME": str(iris.home / "none"), "IRIS_CONTROLLER_ADDRESS": up["address"]}
    assert "needs a token" in iris("ps", code=1, **elsewhere).stderr
    assert "not a token of Iris" in iris("ps", code=1, **elsewhere, IRIS_TOKEN="nonsense").stderr
    ana = {**elsewhere, "IRIS_TOKEN": secret}
    assert iris("run", "--", "echo", "hello", **ana).stdout == "hello\n"
    assert "the role 'user' of this token may not call ListTokens" in iris("token", "list", code=1, **ana).stderr
    (job,) = iris.json("ps")["jobs"]
    assert job["owner"] == "ana"
    assert "ana" in iris("status", job["job_id"]).stdout
    assert "'user'" not in iris("ps", **ana).stderr

    (ana_id,) = [known["token_id"] for known in listed if known["name"] == "ana"]
    assert iris.json("token", "revoke", ana_id) == {"token_id": ana_id, "revoked": True}
    assert f"token {ana_id} of 'ana' was revoked" in iris("ps", code=1, **ana).stderr
    assert "revoked" in iris("token", "list").stdout
    assert "no token with id 'nobody'" in iris("token", "revoke", "nobody", code=1).stderr
    for ttl in ("0", "3661d"):
        refused = iris("token", "create", "x", "--ttl", ttl, code=2).stderr
        assert "Invalid value for --ttl: expected a time longer than 0 and at most 3660d" in refused


def test_token_of_iris_up_is_new_at_each_start_and_readable_by_its_user_only(iris: Iris) -> None:
    iris("up", "--port", "0")
    path = state_of(iris) / "token"
    first = path.read_text()
    for secret in (path, state_of(iris) / "token-key"):
        assert secret.stat().st_mode & 0o777 == 0o600
    assert state_of(iris).stat().st_mode & 0o077 == 0
    iris("down")
    iris("up", "--port", "0")
    assert path.read_text() != first
    assert iris.json("ps")["jobs"] == []
    iris("ps", IRIS_TOKEN=first.strip())  # good until it expires: its key is the same
    path.chmod(0o644)
    assert "can be read by others" in iris("ps", code=1).stderr
    path.chmod(0o600)
    iris("down")
    (state_of(iris) / "token-key").chmod(0o644)
    assert "token-key can be read by others" in iris("up", "--port", "0", code=1).stderr


def processes() -> list[tuple[bytes, bytes]]:
    """The command line and the environment of everything that can be looked at."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            directory = Path("/proc") / name
            found.append(((directory / "cmdline").read_bytes(), (directory / "environ").read_bytes()))
    return found


def test_secrets_are_stored_only_in_secret_files(iris: Iris) -> None:
    said = []
    shell_token = token(name="of another cluster")
    # The test reads the environments of processes, which a forked server would hide.
    up = iris("up", "--port", "0", "--workers", "2", IRIS_TOKEN=shell_token, MY_OWN="visible", **{REAL_START: "1"})
    said.append(up.stdout + up.stderr)
    admin = (state_of(iris) / "token").read_text().strip()
    bob = iris("token", "create", "bob").stdout.strip()
    # A job that is submitted with the user's token in its environment, by the terminal and by the wire.
    out = iris.folder / "own"
    script = f'printf %s "$IRIS_TOKEN" > {out}; echo "my own is $MY_OWN"; sleep 1000'
    job_id = iris("run", "--detach", "--", "sh", "-c", script, IRIS_TOKEN=bob, MY_OWN="visible").stdout.strip()
    address = iris.json("up")["address"]
    with RemoteClusterClient(address, token=bob) as cluster:
        environment = cluster_pb2.EnvironmentConfig(env_vars={"IRIS_TOKEN": bob, "MY_OWN": "visible"})
        raw = launch(cluster, shell("env; sleep 1000"), environment=environment)
        for one in (job_id, raw):
            wait_for_state(cluster, one, cluster_pb2.JOB_STATE_RUNNING)
        own = wait_until(lambda: out.exists() and out.read_text(), "the token of a task")
        statuses = str([cluster.get_job_status(one) for one in (job_id, raw)] + cluster.list_jobs())
        statuses += str(cluster.list_workers())
        wait_until(lambda: any("MY_OWN" in line.data for line in cluster.fetch_task_logs(f"{raw}/task-0")), "env")
    assert own.count(".") == 2
    assert own not in (admin, bob)

    key = (state_of(iris) / "token-key").read_text().splitlines()[1]
    signatures = {name: secret.rpartition(".")[2] for name, secret in {"admin": admin, "bob": bob, "own": own}.items()}
    signatures |= {"key": key, "shell": shell_token.rpartition(".")[2]}

    # Processes: no command line has any, no environment one that is not its own; servers and workers have none.
    home = str(iris.home).encode()

    def own_processes() -> list[tuple[bytes, bytes]]:
        """Return the server, two workers with their reapers, and two shells that have started `sleep`."""
        mine = [found for found in processes() if home in found[0] + found[1]]
        of_tasks = [environ for _, environ in mine if b"IRIS_ATTEMPT_MARK=" in environ]
        return mine if len(mine) >= 7 and len(of_tasks) >= 4 else []

    mine = wait_until(own_processes, "all processes of the cluster and its tasks")
    for command, environ in mine:
        for name, secret in signatures.items():
            assert secret.encode() not in command, (name, command)
            if name != "own":
                assert secret.encode() not in environ, (name, command)
        is_task = b"IRIS_ATTEMPT_MARK=" in environ
        assert is_task == (environ.count(b"IRIS_TOKEN=") == 1), command

    # Words, and everything on the disk: of the wire's job, what it printed itself is its own affair.
    for words in (("ps",), ("ps", "--json"), ("status", job_id), ("status", job_id, "--json"), ("token", "list")):
        done = iris(*words)
        said.append(done.stdout + done.stderr)
    iris("kill", "--wait", job_id, raw)
    iris("down")
    files = [path for path in state_of(iris).rglob("*") if path.is_file()]
    assert any(path.name == "controller.db" for path in files)
    for path in files:
        if path.name in ("token", "token-key"):
            continue
        data = path.read_bytes()
        for name, secret in signatures.items():
            if name != "own" or not str(path.relative_to(state_of(iris))).startswith(f"logs/{raw}"):
                assert secret.encode() not in data, (name, path)
    for text in [*said, statuses, (state_of(iris) / "server.log").read_text()]:
        for name, secret in signatures.items():
            assert secret not in text, name
    assert "visible" in (state_of(iris) / "controller.db").read_bytes().decode("latin-1"), "the search would find it"


def test_up_on_a_public_host_needs_tls_or_an_explicit_option(iris: Iris) -> None:
    refused = iris("up", "--port", "0", "--host", "0.0.0.0", code=1).stderr
    assert "--tls-cert" in refused
    assert "--insecure-no-tls" in refused
    assert "must be given together" in iris("up", "--tls-cert", __file__, code=2).stderr
    assert "needs --tls-cert" in iris("up", "--client-ca", __file__, code=2).stderr
    assert "does not exist" in iris("up", "--tls-cert", "missing.pem", code=2).stderr
    files = ("--tls-cert", __file__, "--tls-key", __file__)
    assert "expected a certificate" in iris("up", "--port", "0", *files, code=1).stderr
    up = iris.json("up", "--port", "0", "--host", "0.0.0.0", "--insecure-no-tls")
    assert iris("run", "--", "echo", "hello").stdout == "hello\n"
    assert iris("--address", f"localhost:{up['port']}", "ps").returncode == 0, "it is found by the loopback, too"
    assert iris("--address", f"localhost:{up['port']}", "run", "--", "pwd").stdout == f"{iris.folder}\n", "and is here"
    assert "--insecure-no-tls" not in iris("up", "--host", "0.0.0.0").stderr

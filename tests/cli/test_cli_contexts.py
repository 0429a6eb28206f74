"""`iris login`, `iris context` and `--context`: saved clusters, with names and tokens."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import CertificateAuthority
from support.cluster import running_cluster, unique
from support.preloaded import Preloaded
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.server_process import LocalServer

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


@pytest.fixture
def user_iris(tmp_path: Path, preloaded: Preloaded) -> Iterator[Iris]:
    """An `iris` of a user who has saved no cluster yet."""
    from cli.conftest import Iris as Program

    program = Program(tmp_path / "iris", preloaded)
    yield program
    program.close()


def login(iris: Iris, *words: str, secret: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `iris login --token-stdin` with a token on its standard input."""
    fed = iris.feed(secret.encode(), "login", "--token-stdin", *words)
    done = subprocess.CompletedProcess(words, fed.returncode, fed.stdout.decode(), fed.stderr.decode())
    assert done.returncode == code, done
    assert secret.strip() not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_login_saves_a_cluster_that_commands_and_python_find(user_iris: Iris, shared_cluster: LocalServer) -> None:
    secret = token("user", name="ana")
    done = login(user_iris, shared_cluster.address, "--name", "prod", "--json", secret=secret)
    document = json.loads(done.stdout)
    assert (document["name"], document["current"], document["user"], document["role"]) == ("prod", True, "ana", "user")
    name = user_iris.detach("true")
    assert user_iris.json("status", name)["owner"] == "ana"
    program = (
        "import sys; from iris import IrisClient\n"
        "for client in (IrisClient.remote(), IrisClient.from_context('prod')):\n"
        "    print(client.status(sys.argv[1]).owner)\n"
    )
    command = [sys.executable, "-c", program, name]
    assert subprocess.check_output(command, env=user_iris.env, text=True).split() == ["ana", "ana"]

    listed = user_iris.json("context", "list")
    assert [(one["name"], one["current"], one["address"]) for one in listed["contexts"]] == [
        ("local", False, None),
        ("prod", True, shared_cluster.address),
    ]
    shown = user_iris.json("context", "show")
    assert (shown["name"], shown["source"]) == ("prod", "current-context")
    texts = [
        user_iris(*words).stdout for words in (("context", "list"), ("context", "show"), ("context", "show", "prod"))
    ]
    assert all("ana" in text and secret not in text for text in texts)
    assert secret not in json.dumps([listed, shown])


def test_context_option_of_a_command_overrides_the_current_context(
    user_iris: Iris, shared_cluster: LocalServer
) -> None:
    for name in ("ana", "bob"):
        login(user_iris, shared_cluster.address, "--name", f"of-{name}", secret=token("user", name=name))
    job = user_iris.detach("true")
    assert user_iris.json("status", job)["owner"] == "bob"
    assert user_iris.json("context", "use", "of-ana") == {"current": "of-ana"}
    assert user_iris.json("status", user_iris.detach("true"))["owner"] == "ana"

    started = unique("job")
    hint = user_iris("run", "--context", "of-bob", "--detach", "--name", started, "--", "true").stderr
    assert f"iris logs -f --context of-bob {started}" in hint
    assert user_iris.json("status", started)["owner"] == "bob"
    before = user_iris("--context", "of-bob", "run", "--detach", "--", "true").stdout.strip()
    assert user_iris.json("status", before)["owner"] == "bob"
    in_variable = user_iris("run", "--detach", "--", "true", IRIS_CONTEXT="of-bob").stdout.strip()
    assert user_iris.json("status", in_variable)["owner"] == "bob"

    done = user_iris("ps", "--context", "of-bob", "--address", "a:1", code=2)
    assert "--address and --context exclude each other" in done.stderr
    assert "the contexts are of-ana, of-bob" in user_iris("ps", "--context", "of-eve", code=1).stderr
    noted = user_iris("context", "use", "of-bob", IRIS_CONTROLLER_ADDRESS="a:1").stderr
    assert "IRIS_CONTROLLER_ADDRESS=a:1 is set, and wins over the current context" in noted


def test_names_of_contexts_are_completed(user_iris: Iris, shared_cluster: LocalServer) -> None:
    login(user_iris, shared_cluster.address, "--name", "prod", secret=token("user", name="ana"))

    def offered(*words: str) -> list[str]:
        done = user_iris(
            _IRIS_COMPLETE="zsh_complete", COMP_WORDS=shlex.join(["iris", *words]), COMP_CWORD=str(len(words))
        )
        return list(done.stdout.splitlines()[1::3])

    assert offered("context", "use", "p") == ["prod"]
    assert offered("ps", "--context", "") == ["prod", "local"]
    assert offered("logout", "x") == []


def test_context_option_overrides_the_context_that_a_job_file_names(
    user_iris: Iris, shared_cluster: LocalServer
) -> None:
    login(user_iris, shared_cluster.address, "--name", "one", secret=token("user", name="ana"))
    login(user_iris, shared_cluster.address, "--name", "two", secret=token("user", name="ana"))
    (user_iris.folder / "job.toml").write_text('context = "unknown"\ncommand = ["echo", "hello"]\n')
    assert user_iris("--context", "one", "run", "-f", "job.toml").stdout == "hello\n"
    assert user_iris("run", "--address", shared_cluster.address, "-f", "job.toml").stdout == "hello\n"
    assert "no context 'unknown'" in user_iris("run", "-f", "job.toml", code=125).stderr
    assert user_iris.json("--context", "one", "logout")["name"] == "one"


def test_logout_removes_the_token(user_iris: Iris, shared_cluster: LocalServer) -> None:
    secret = token("user", name="ana")
    login(user_iris, shared_cluster.address, "--name", "one", secret=secret)
    login(user_iris, shared_cluster.address, "--name", "two", secret=secret)
    assert user_iris.json("logout") == {"name": "two", "removed": True, "current": "local"}
    assert user_iris.json("context", "remove", "one") == {"name": "one", "removed": True, "current": "local"}
    assert secret not in (user_iris.home / ".config" / "iris" / "contexts.json").read_text()
    assert "no current context to log out of" in user_iris("logout", code=1).stderr
    assert "no context 'one'" in user_iris("context", "remove", "one", code=1).stderr
    assert "there is no cluster" in user_iris("ps", code=1).stderr
    assert "commands find no cluster" in user_iris("context", "show", code=1).stderr


@pytest.mark.parametrize("words", [(), ("--name", "x")])
def test_login_with_a_wrong_token_or_address_saves_nothing(
    user_iris: Iris, shared_cluster: LocalServer, words: tuple[str, ...]
) -> None:
    done = login(user_iris, shared_cluster.address, *words, secret="not-a-token", code=1)
    assert "not a token of Iris" in done.stderr
    assert "nothing was saved" in done.stderr
    assert "nothing was saved" in login(user_iris, "127.0.0.1:1", *words, secret=token(), code=1).stderr
    assert not (user_iris.home / ".config").exists()


def test_login_with_an_invalid_token_or_without_a_terminal_is_refused(
    user_iris: Iris, shared_cluster: LocalServer
) -> None:
    for text in ("", "two words\n", "caf\u00e9\n"):
        done = user_iris.feed(text.encode(), "login", "--token-stdin", shared_cluster.address)
        assert b"the given text is not a token: expected one word" in done.stderr
    assert "and add --token-stdin" in user_iris("login", shared_cluster.address, code=2).stderr


def test_login_without_tls_to_another_machine_needs_a_flag(user_iris: Iris) -> None:
    done = login(user_iris, "example.invalid:1", secret=token(), code=1)
    assert "use https://example.invalid:1" in done.stderr
    assert "--insecure-no-tls" in done.stderr
    done = login(user_iris, "example.invalid:1", "--insecure-no-tls", secret=token(), code=1)
    assert "nothing was saved" in done.stderr


def test_login_does_not_replace_a_context_of_another_cluster(user_iris: Iris, shared_cluster: LocalServer) -> None:
    login(user_iris, shared_cluster.address, "--name", "prod", secret=token("user", name="ana"))
    done = login(user_iris, "localhost:1", "--name", "prod", secret=token(), code=1)
    assert "choose another name with --name" in done.stderr
    login(user_iris, shared_cluster.address, "--name", "prod", secret=token("reader", name="eve"))
    assert user_iris.json("context", "show")["user"] == "eve", "the same cluster, with another token"
    assert (
        "stands for the cluster of 'iris up'"
        in login(user_iris, shared_cluster.address, "--name", "local", secret=token(), code=2).stderr
    )


def test_login_with_an_invalid_address_or_name_is_refused_before_the_token_is_read(user_iris: Iris) -> None:
    for words, text in (
        (("nowhere",), "the port is missing"),
        (("http://localhost:1", "--name", "a/b"), "must have 1 to 64 ASCII letters"),
        (("http://[::1]:1",), "give a name with --name NAME"),
    ):
        assert text in user_iris("login", *words, code=2).stderr


def test_login_on_a_terminal_asks_for_the_token_without_showing_it(
    user_iris: Iris, shared_cluster: LocalServer
) -> None:
    secret = token("user", name="ana")
    terminal = user_iris.terminal("login", shared_cluster.address, "--name", "prod")
    wait_until(lambda: terminal.screen[-1].startswith("Token:"), "the question")
    terminal.type(f"{secret}\n")
    assert terminal.exit_code() == 0
    assert secret.encode() not in terminal.written
    assert "as ana (user)" in " ".join(terminal.screen)
    assert user_iris.json("context", "show")["name"] == "prod"


def test_login_saves_the_path_of_the_given_certificate_authority(
    user_iris: Iris, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = CertificateAuthority(tmp_path)
    certificate = authority.server(name="tls")
    options = {"tls_cert": str(certificate.cert), "tls_key": str(certificate.key), "client_ca": str(authority.path)}
    own = authority.client()
    with running_cluster(tmp_path_factory.mktemp("tls"), **options) as server:
        assert "nothing was saved" in login(user_iris, server.address, "--name", "tls", secret=token(), code=1).stderr
        files = ["--ca", str(authority.path), "--cert", str(own.cert), "--cert-key", str(own.key)]
        login(user_iris, server.address, "--name", "tls", *files, secret=token())
        assert user_iris.json("context", "show", "tls")["ca"] == str(authority.path)
        assert user_iris("run", "--", "echo", "hello").stdout == "hello\n"


def test_python_finds_the_cluster_that_iris_up_started_under_the_name_local(
    iris: Iris, shared_cluster: LocalServer
) -> None:
    up = iris.json("up", "--port", "0")
    program = (
        "import asyncio; from iris import AsyncIrisClient, IrisClient\n"
        "async def ask():\n"
        "    async with AsyncIrisClient.remote() as client:\n"
        "        return len(await client.machines())\n"
        "client = IrisClient.remote()\n"
        "print(client.cluster.controller_address, client.run(['true']).wait().owner, asyncio.run(ask()))\n"
    )
    owner = iris.json("status", iris.detach("true"))["owner"]
    found = subprocess.check_output([sys.executable, "-c", program], env=iris.env, text=True).split()
    assert found == [up["address"], owner, "1"]
    shown = iris.json("context", "show")
    assert (shown["address"], shown["name"], shown["source"]) == (up["address"], "local", "running")
    login(iris, shared_cluster.address, "--name", "prod", secret=token("user", name="ana"))
    assert iris.json("status", iris.detach("true"))["owner"] == "ana"
    on_local = iris("run", "--context", "local", "--detach", "--", "true").stdout.strip()
    assert iris.json("status", on_local, "--context", "local")["owner"] == owner
    assert "iris context use local" in iris("up").stderr
    iris("context", "use", "local")
    assert iris.json("status", on_local)["owner"] == owner

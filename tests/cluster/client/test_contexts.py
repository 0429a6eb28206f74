"""The file of contexts, and the order in which a client looks for its cluster."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from iris.client import IrisClient
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.access import ClusterAccess
from iris.cluster.client.contexts.choose_cluster import Access, ContextToken, choose_cluster, find_cluster
from iris.cluster.client.contexts.context_file import (
    Context,
    Contexts,
    change_contexts,
    check_context_name,
    contexts_path,
    find_context_at,
    read_contexts,
)
from iris.errors import (
    FailedPreconditionError,
    InvalidAddressError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
)
from iris.rpc.http.tls import ClientTls

PROD = Context("prod", "https://prod:1", "secret-of-prod", ca="/ca.pem", cert="/cert.pem", cert_key="/key.pem")
STAGING = Context("staging", "http://staging:1", "secret-of-staging")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, and no variable that names a cluster."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "IRIS_CONTROLLER_ADDRESS", "IRIS_CONTEXT", "IRIS_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def save(*contexts: Context) -> None:
    for context in contexts:
        change_contexts(lambda known, context=context: known.with_context(context))  # type: ignore[misc]


def test_file_of_contexts_is_private_and_is_read_back_unchanged(home: Path) -> None:
    save(PROD, STAGING)
    path = home / ".config" / "iris" / "contexts.json"
    assert path == contexts_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_contexts() == Contexts("staging", {"prod": PROD, "staging": STAGING})
    assert change_contexts(lambda known: known.without("staging")) == Contexts("", {"prod": PROD}) == read_contexts()


def test_contexts_lie_in_the_configuration_directory_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert contexts_path() == tmp_path / "config" / "iris" / "contexts.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert contexts_path() == tmp_path / ".config" / "iris" / "contexts.json"


def test_token_of_a_context_is_not_in_its_repr() -> None:
    assert "secret" not in repr(PROD) + repr(Contexts("prod", {"prod": PROD}))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_of_contexts_that_others_can_read_is_refused(mode: int) -> None:
    save(PROD)
    contexts_path().chmod(mode)
    with pytest.raises(FailedPreconditionError, match=r"contexts.json can be read by others.*chmod 600"):
        read_contexts()
    with pytest.raises(FailedPreconditionError, match="can be read by others"):
        save(STAGING)


def test_file_of_contexts_in_a_directory_that_others_can_write_is_refused() -> None:
    save(PROD)
    contexts_path().parent.chmod(0o770)
    with pytest.raises(FailedPreconditionError, match=r"can be written by other users.*chmod go-w"):
        read_contexts()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_file_of_contexts_of_another_user_is_refused() -> None:
    save(PROD)
    os.chown(contexts_path(), 12345, 12345)
    with pytest.raises(FailedPreconditionError, match=r"contexts\.json"):
        read_contexts()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"contexts": []}', '{"contexts": {"a": {"address": "b:1"}}}'])
def test_error_for_a_damaged_file_of_contexts_names_the_next_step(text: str) -> None:
    save(PROD)
    contexts_path().write_text(text)
    with pytest.raises(FailedPreconditionError, match=r"is not a file of contexts .*: remove the file, and run 'iris"):
        read_contexts()


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "x" * 65, "é", "a\n"])
def test_invalid_name_of_a_context_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="the name of a context must have 1 to 64 ASCII letters"):
        check_context_name(name)


def test_context_cannot_be_named_local() -> None:
    with pytest.raises(InvalidArgumentError, match="'local' stands for the cluster of 'iris up'"):
        check_context_name("local")


def test_contexts_on_a_system_without_file_permissions_are_refused_with_an_alternative() -> None:
    program = (
        "import os; del os.getuid\n"
        "from iris.cluster.client.contexts.context_file import change_contexts\n"
        "try:\n    change_contexts(lambda known: known)\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.startswith("FailedPreconditionError contexts are kept on Linux and macOS only")


def test_processes_that_save_contexts_at_the_same_time_lose_no_context() -> None:
    program = (
        "import sys; from iris.cluster.client.contexts.context_file import *\n"
        "for n in range(10):\n"
        "    one = Context(f'{sys.argv[1]}-{n}', 'http://a:1', 'token')\n"
        "    change_contexts(lambda known: known.with_context(one))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, name]) for name in ("a", "b")]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(read_contexts().known) == 20


def test_clusters_are_chosen_in_the_documented_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_cluster() is None
    save(STAGING, PROD)

    def source_and_address(**given: str) -> tuple[str, str]:
        chosen = find_cluster(**given)
        assert chosen is not None
        return chosen.source, chosen.address

    assert source_and_address() == ("current-context", "https://prod:1")
    monkeypatch.setenv("IRIS_CONTEXT", "staging")
    assert source_and_address() == ("context-variable", "http://staging:1")
    monkeypatch.setenv("IRIS_CONTROLLER_ADDRESS", "variable:1")
    assert source_and_address() == ("address-variable", "variable:1")
    assert source_and_address(context="prod") == ("context", "https://prod:1")
    assert source_and_address(address="given:1") == ("address", "given:1")
    with pytest.raises(InvalidArgumentError, match=r"exclude each other, got address='a:1' and context='prod'"):
        find_cluster("a:1", "prod")


def test_unknown_context_is_not_found_and_the_error_lists_the_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_CONTEXT", "prd")
    with pytest.raises(NotFoundError, match="no context 'prd': there is no context yet; 'iris login ADDRESS"):
        IrisClient.remote()
    save(PROD)
    with pytest.raises(NotFoundError, match="no context 'prd': the contexts are prod"):
        AsyncIrisClient.remote()
    with pytest.raises(LookupError):
        IrisClient.from_context("prd")


def test_client_without_any_cluster_gets_an_error_that_explains_how_to_name_one() -> None:
    for client in (IrisClient, AsyncIrisClient):
        with pytest.raises(InvalidAddressError, match=r"IRIS_CONTROLLER_ADDRESS is not set.*'iris login' or 'iris up'"):
            client.remote()
        with pytest.raises(FailedPreconditionError, match="no cluster of 'iris up' runs on this machine"):
            client.from_context("local")
        for wrong in (None, "", 5, b"prod"):
            with pytest.raises(InvalidArgumentError, match="name must be the name of a context"):
                client.from_context(wrong)  # type: ignore[arg-type]


def test_error_for_iris_context_set_to_local_says_that_no_cluster_of_iris_up_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IRIS_CONTEXT", "local")
    for client in (IrisClient, AsyncIrisClient):
        with pytest.raises(InvalidAddressError, match=r"^IRIS_CONTEXT is 'local', and no cluster of 'iris up' runs"):
            client.remote()


def test_token_of_a_context_overrides_the_environment_but_not_the_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IRIS_TOKEN", "of-another-cluster")
    save(STAGING)
    with IrisClient.remote() as client:
        assert client.cluster.controller_address == "http://staging:1"
        assert client.cluster.token() == "secret-of-staging"
    with IrisClient.remote(token="given") as client:
        assert client.cluster.token() == "given"
    with IrisClient.remote("http://other:1") as client:
        assert client.cluster.token() == "of-another-cluster"


def test_client_with_the_address_of_a_context_uses_its_token_and_certificates_unless_others_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(PROD, STAGING)
    monkeypatch.delenv("IRIS_TOKEN")
    with IrisClient.remote("staging:1") as client, IrisClient.remote("other:1") as other:
        assert (client.cluster.token(), other.cluster.token()) == ("secret-of-staging", None)
    with IrisClient.remote("staging:1", token="given") as client:
        assert client.cluster.token() == "given"
    access = ClusterAccess("https://prod:1", None, None, None, None, None, 60)
    assert access.tls == ClientTls("/ca.pem", "/cert.pem", "/key.pem")
    save(Context("second", STAGING.address, "secret-of-second"), PROD)
    assert find_context_at(STAGING.address) is None, "two contexts have this address"
    change_contexts(lambda known: known.with_current("second"))
    found = find_context_at(STAGING.address)
    assert found is not None
    assert found.name == "second", "the current one"
    monkeypatch.setenv("IRIS_TOKEN", "of-the-environment")
    with IrisClient.remote("staging:1") as client:
        assert client.cluster.token() == "of-the-environment"


def test_certificates_of_a_context_are_used_unless_the_user_gives_others_or_a_transport() -> None:
    save(PROD)
    chosen = choose_cluster()
    assert chosen.access(Access()).ca == "/ca.pem"
    assert chosen.access(Access()).cert == ("/cert.pem", "/key.pem")
    given = chosen.access(Access(ca="other", cert="own"))
    assert (given.ca, given.cert) == ("other", "own")
    with_transport = chosen.access(Access(), has_transport=True)
    assert (with_transport.ca, with_transport.cert) == (None, None)
    assert isinstance(with_transport.token, ContextToken)


def test_running_client_uses_the_token_of_a_later_login_only_if_the_address_is_unchanged() -> None:
    save(PROD)
    token = ContextToken(PROD)
    save(Context("prod", PROD.address, "renewed"))
    assert token() == "renewed"
    save(Context("prod", "https://elsewhere:1", "of-elsewhere"))
    with pytest.raises(UnauthenticatedError, match="the context 'prod' for https://prod:1 was removed or changed"):
        token()


def test_context_local_is_the_running_cluster_even_if_another_context_is_current(home: Path) -> None:
    save(PROD)
    assert find_cluster(context="local") is None
    record = home / ".local" / "state" / "iris"
    record.mkdir(parents=True)
    record.chmod(0o700)
    path = record / f"up-{os.uname().nodename}.json"
    path.write_text(json.dumps({"address": "http://127.0.0.1:9", "pid": 2**22 + 1, "process": "gone"}))
    path.chmod(0o600)
    with pytest.raises(FailedPreconditionError, match=r"the server of 'iris up' at http://127\.0\.0\.1:9 was killed"):
        find_cluster(context="local")
    assert choose_cluster().source == "current-context"

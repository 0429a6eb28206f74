"""`iris up --host NAME` accepts names of this machine in any case, with IPv4 and IPv6 addresses."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iris.rpc.address import parse_address

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def _own_hosts(directory: Path, line: str) -> list[str]:
    """Return words that run a command with a `/etc/hosts` of this line only. Skips where that needs root."""
    hosts = directory / "hosts"
    hosts.write_text(line + "\n")
    inside = f'mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", inside, "sh"]
    try:
        tried = subprocess.run([*before, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("an /etc/hosts of its own needs unshare(1)")
    if tried.returncode != 0:
        pytest.skip(f"an /etc/hosts of its own needs root: {tried.stderr.strip()}")
    return before


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_cluster_on_a_host_name_with_only_an_ipv6_address_runs_jobs(iris: Iris, tmp_path: Path) -> None:
    before = _own_hosts(tmp_path, "::1 six")
    say = "echo $IRIS_BIND_HOST $IRIS_CONTROLLER_ADDRESS; test -n $IRIS_PORT_WEB && echo has a port"
    words = [
        ["up", "--host", "Six", "--port", "0", "--insecure-no-tls"],
        ["run", "--port", "web", "--", "sh", "-c", say],
        ["down"],
    ]
    script = " && ".join(shlex.join([sys.executable, "-m", "iris.cli", *command]) for command in words)
    done = subprocess.run(
        [*before, "sh", "-c", script], env=iris.env, cwd=iris.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    ran = next(line for line in done.stdout.splitlines() if line.startswith("Six "))
    assert ran.split()[1].startswith("http://six:")
    assert "has a port" in done.stdout


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_host_given_as_an_ipv6_address_is_accepted_with_and_without_brackets(iris: Iris, host: str) -> None:
    address = iris.json("up", "--port", "0", "--host", host)["address"]
    assert address.startswith("http://[::1]:")
    assert iris("ps").stdout == "no jobs yet\n"


def test_cluster_is_found_by_its_address_in_upper_case(iris: Iris) -> None:
    port = iris.json("up", "--port", "0", "--host", "LOCALHOST")["port"]
    for address in (f"LOCALHOST:{port}", f"HTTP://LocalHost:{port}", f"http://127.0.0.1:{port}"):
        assert iris("--address", address, "ps").stdout == "no jobs yet\n"
        assert parse_address(address).islower()


def test_cluster_is_found_after_a_change_of_the_host_name(iris: Iris) -> None:
    iris.json("up", "--port", "0")
    script = f"""
        hostname renamed && {shlex.join(iris.command("ps"))} && {shlex.join(iris.command("up", "--port", "0"))} &&
        {shlex.join(iris.command("down"))} && {shlex.join(iris.command("up", "--port", "0"))}
    """
    renamed = ["unshare", "--uts", "sh", "-c", script]
    done = subprocess.run(renamed, env=iris.env, cwd=iris.folder, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip(f"a host name of its own needs root: {done.stderr.strip()}")
    assert done.returncode == 0, done
    first, again, ended, anew = done.stdout.splitlines()
    assert first == "no jobs yet"
    assert "already" in again
    assert ended.startswith("the cluster at http://127.0.0.1:")
    assert anew.startswith("a cluster is up at")
    assert iris("ps").stdout == "no jobs yet\n"  # the cluster that was started under the other name
    assert "has ended" in iris("down").stdout
    assert list((iris.home / "state" / "iris").glob("up-*.json")) == []


def test_up_with_a_host_that_does_not_resolve_names_the_host(iris: Iris) -> None:
    refused = iris("up", "--port", "0", "--host", "iris.invalid", "--insecure-no-tls", code=1).stderr
    assert "cannot listen on iris.invalid:0" in refused
    assert "--host must be an address or a name of this machine" in refused

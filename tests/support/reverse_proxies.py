"""Real reverse proxies for tests: nginx, haproxy, Caddy, Envoy and SSH, each as docs/proxies.md configures it.

The configurations are read from the page. Only ports, names and paths of files are replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.certificates import Certificate
from support.ports import free_port
from support.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
_PORT = 50051  # The port of the controller on the page.
BARE_HOST = "127.0.0.2"  # Where nginx also listens, without the settings of the page.
_NAME = "iris.example.org"
_PORT_TRIES = 3
_INSTALL = {
    "nginx": "apt-get install nginx-light",
    "haproxy": "apt-get install haproxy",
    "caddy": "uv sync --group proxies",
    "envoy": "uv sync --group proxies",
    "curl": "apt-get install curl",
    "sshd": "apt-get install openssh-server openssh-client",
}


@dataclass(frozen=True)
class ProxySetup:
    """What a test needs to start one proxy.

    Attributes:
        directory: The directory for the files of the proxy.
        port: The port on which the proxy listens, on loopback.
        target: The port of the controller, on loopback.
        certificate: The certificate that the proxy shows to clients.
        is_below_a_path: Whether the proxy serves the controller below the path `/iris/`.
    """

    directory: Path
    port: int
    target: int
    certificate: Certificate
    is_below_a_path: bool = False

    def write(self, name: str, text: str) -> Path:
        """Write a file for the proxy, and return its path."""
        path = self.directory / name
        path.write_text(text)
        return path


def page_blocks(language: str, title: str) -> list[str]:
    """Return the code blocks of a language in a section of docs/proxies.md."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks, f"no block of {language} in the section {title!r} of {PAGE}"
    return blocks


def site_of(setup: ProxySetup, language: str, title: str, start: str, end: str) -> str:
    """Return the configuration of a proxy, with the settings for a path if the setup wants them.

    Args:
        setup: The setup.
        language: The language of the code blocks.
        title: The section with the configuration.
        start: Where the part begins that the settings for a path replace.
        end: The text after this part; empty if the part ends with the configuration.
    """
    text = page_blocks(language, title)[0]
    if not setup.is_below_a_path:
        return text
    assert start in text, f"{PAGE} does not contain {start!r} any more"
    before, _, after = text.partition(start)
    rest = end + after.partition(end)[2] if end else ""
    return before + page_blocks(language, "Below a path")[0] + rest


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Return a text with replacements, each of which must find something to replace."""
    for old, new in pairs:
        assert old in text, f"{PAGE} does not contain {old!r} any more"
        text = text.replace(old, new)
    return text


def _nginx(setup: ProxySetup) -> list[str]:
    site = replaced(
        site_of(setup, "nginx", "nginx", "    location / {", "\n}\n"),
        ("listen 443", f"listen 127.0.0.1:{setup.port}"),
        (f"127.0.0.1:{_PORT}", f"127.0.0.1:{setup.target}"),
        ("/etc/ssl/iris.pem", str(setup.certificate.cert)),
        ("/etc/ssl/iris.key", str(setup.certificate.key)),
    )
    # A second site without the settings of the page shows the errors that the page describes.
    certificate = f"ssl_certificate {setup.certificate.cert}; ssl_certificate_key {setup.certificate.key};"
    listen = f"listen {BARE_HOST}:{setup.port} ssl http2;"
    bare = f"server {{ {listen} {certificate} location / {{ proxy_pass http://iris; }} }}"
    temporary = "".join(
        f"{name}_temp_path {setup.directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # Other users cannot write into the directories of tests.
    main = setup.write(
        "nginx.conf",
        f"{user} daemon off; worker_processes 1; pid {setup.directory}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off; {temporary}\n{site}\n{bare}\n}}\n",
    )
    return [program("nginx"), "-p", str(setup.directory), "-c", str(main), "-e", "stderr"]


def _haproxy(setup: ProxySetup) -> list[str]:
    pem = setup.write("iris.pem", setup.certificate.cert.read_text() + setup.certificate.key.read_text())
    text = replaced(
        site_of(setup, "haproxy", "haproxy", "frontend iris", ""),
        ("bind :443", f"bind 127.0.0.1:{setup.port}"),
        (f"127.0.0.1:{_PORT}", f"127.0.0.1:{setup.target}"),
        ("/etc/haproxy/iris.pem", str(pem)),
    )
    return [program("haproxy"), "-db", "-f", str(setup.write("haproxy.cfg", "global\n    maxconn 500\n" + text))]


def _caddy(setup: ProxySetup) -> list[str]:
    text = replaced(
        site_of(setup, "caddyfile", "Caddy", "    reverse_proxy", "\n}\n"),
        (_NAME, f"https://127.0.0.1:{setup.port}"),
        (f"127.0.0.1:{_PORT}", f"127.0.0.1:{setup.target}"),
        ("/etc/caddy/iris.pem", str(setup.certificate.cert)),
        ("/etc/caddy/iris.key", str(setup.certificate.key)),
    )
    options = "{\n    admin off\n    auto_https disable_redirects\n}\n"
    path = setup.write("Caddyfile", options + text)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(path)]


def _envoy(setup: ProxySetup) -> list[str]:
    text = replaced(
        site_of(setup, "yaml", "Envoy", "              - match: { prefix: / }", "          http_filters:"),
        ("address: 0.0.0.0, port_value: 443", f"address: 127.0.0.1, port_value: {setup.port}"),
        (f"port_value: {_PORT}", f"port_value: {setup.target}"),
        ("/etc/envoy/iris.pem", str(setup.certificate.cert)),
        ("/etc/envoy/iris.key", str(setup.certificate.key)),
    )
    options = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]
    return [program("envoy"), *options, "--config-path", str(setup.write("envoy.yaml", text))]


def _ssh(setup: ProxySetup) -> list[str]:
    (command,) = re.findall(r"^ssh .*$", page_blocks("sh", "SSH")[0], re.MULTILINE)
    shared = setup.directory.parent  # `_sshd` has put its port and the keys there.
    options = ["-F", "none", "-p", (shared / "port").read_text(), "-i", str(shared / "user-key")]
    options += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={shared}/known"]
    text = replaced(
        command,
        (f"-L {_PORT}:127.0.0.1:{_PORT}", f"-L {setup.port}:127.0.0.1:{setup.target}"),
        ("ana@cluster.example.org", "127.0.0.1"),
    )
    return [program("ssh"), *options, *shlex.split(text)[1:]]


def _sshd(setup: ProxySetup) -> list[str]:
    shared = setup.directory.parent
    for path in (shared / "host-key", shared / "user-key"):
        if not path.exists():
            subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    (shared / "port").write_text(str(setup.port))
    settings = (
        f"ListenAddress 127.0.0.1:{setup.port}\nHostKey {shared}/host-key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {shared}/user-key.pub\nStrictModes no\nPasswordAuthentication no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd needs this directory if it runs as root.
    return [program("sshd"), "-D", "-e", "-f", str(setup.write("sshd.conf", settings))]


_COMMANDS: dict[str, Callable[[ProxySetup], list[str]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "caddy": _caddy,
    "envoy": _envoy,
    "ssh": _ssh,
}
KINDS = tuple(_COMMANDS)


@contextmanager
def running_proxy(
    kind: str, directory: Path, target: int, certificate: Certificate, *, is_below_a_path: bool = False
) -> Iterator[str]:
    """Run a proxy in front of a port of loopback, and yield the URL at which clients call it.

    The test is skipped if the program is not installed.

    Args:
        kind: One of `KINDS`.
        directory: The directory for the files of the proxy.
        target: The port of the controller.
        certificate: The certificate that the proxy shows to clients.
        is_below_a_path: Whether the proxy serves the controller below the path `/iris`, not for SSH.
    """
    with ExitStack() as running:
        if kind == "ssh":
            running.enter_context(_started(_sshd, directory, target, certificate))
        port = running.enter_context(_started(_COMMANDS[kind], directory, target, certificate, is_below_a_path))
        yield f"{'http' if kind == 'ssh' else 'https'}://127.0.0.1:{port}{'/iris' if is_below_a_path else ''}"


def program(name: str) -> str:
    """Return the path of a program. Skip the test if the program is not installed."""
    places = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath), "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{name} is not installed; to run this test: {_INSTALL.get(name, _INSTALL['sshd'])}")
    return found


@contextmanager
def _started(
    command: Callable[[ProxySetup], list[str]],
    directory: Path,
    target: int,
    certificate: Certificate,
    is_below_a_path: bool = False,
) -> Iterator[int]:
    """Run a program that listens on a free port of loopback, and yield the port."""
    process, port = _listening(command, directory, target, certificate, is_below_a_path)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


def _listening(
    command: Callable[[ProxySetup], list[str]],
    directory: Path,
    target: int,
    certificate: Certificate,
    is_below_a_path: bool,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program, on another port if something else takes the first one, and wait until it accepts connections."""
    for attempt in range(_PORT_TRIES):
        port = free_port()
        folder = directory / f"{command.__name__.strip('_')}-{attempt}"
        setup = ProxySetup(folder, port, target, certificate, is_below_a_path)
        folder.mkdir()
        log = folder / "output.txt"
        words = command(setup)
        # Caddy writes into these directories.
        environment = {**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        with log.open("wb") as output:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        wait_until(lambda: process.poll() is not None or _accepts(port), f"the proxy of {log}")  # noqa: B023
        if process.poll() is None:
            return process, port
    raise AssertionError(f"{command.__name__} has not started: {log.read_text()}")


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False

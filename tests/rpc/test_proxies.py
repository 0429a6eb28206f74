"""Proxies of the environment: which calls go through them, with which login, and what is said when they fail."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.answering_server import Server, http
from support.certificates import self_signed
from support.small_proxies import ConnectProxy, SmallProxy, SocksProxy

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.errors import ControllerUnreachableError, FailedPreconditionError, IrisError, MissingExtraError
from iris.rpc import cluster_pb2
from iris.rpc.http.client.proxies import bypasses_proxy, find_proxy

HOST = "iris.invalid"  # no resolver knows it: whoever is reached by it is reached through a proxy
JOBS = cluster_pb2.Controller.ListJobsResponse(jobs=[cluster_pb2.JobStatus(job_id="far")])
LIST = http("200 OK", JOBS.SerializeToString(), "application/proto")
USER, PASSWORD = "ana@corp", "p@ss:w/ör d"
LOGIN = "ana%40corp:p%40ss%3Aw%2F%C3%B6r%20d@"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


@pytest.fixture
def start() -> Iterator[Callable[[SmallProxy | Server], None]]:
    with contextlib.ExitStack() as opened:
        yield lambda started: opened.callback(started.close)


@pytest.fixture
def far(start: Callable[[Server], None]) -> Server:
    """A controller that is reached through a proxy only."""
    server = Server([LIST])
    start(server)
    return server


def job_ids(address: str, ca: Path | None = None) -> list[str]:
    with RemoteClusterClient(address, token="any", ca=ca, timeout_s=10) as client:
        return [job.job_id for job in client.list_jobs()]


def error_of(address: str) -> str:
    with pytest.raises(ControllerUnreachableError) as caught:
        job_ids(address)
    assert PASSWORD not in str(caught.value)
    assert LOGIN not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "form", ["http://{login}{place}", "{login}{place}", "HTTP://{login}{place}/", " {login}{place} "]
)
def test_login_of_a_proxy_url_is_decoded_and_sent(form: str, far: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", form.format(login=LOGIN, place=f"127.0.0.1:{far.port}"))
    assert job_ids(f"http://{HOST}:50051") == ["far"]
    expected = base64.b64encode(f"{USER}:{PASSWORD}".encode())
    assert b"Proxy-Authorization: Basic " + expected in far.requests[0]
    assert far.requests[0].startswith(f"POST http://{HOST}:50051/".encode())


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxy_without_a_scheme_is_an_http_proxy(variable: str, far: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, f"127.0.0.1:{far.port}")
    assert job_ids(f"http://{HOST}:50051") == ["far"]
    assert b"Proxy-Authorization" not in far.requests[0]


def test_https_call_through_a_proxy_uses_connect_with_the_login_of_the_proxy(
    tmp_path: Path, start: Callable[[SmallProxy | Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = self_signed(tmp_path, HOST)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity.cert, identity.key)
    server = Server([LIST], tls=context)
    start(server)
    proxy = ConnectProxy(server.port, (USER, PASSWORD))
    start(proxy)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url(LOGIN))
    assert job_ids(f"https://{HOST}", ca=identity.cert) == ["far"]
    assert proxy.logins == [(USER, PASSWORD)]
    assert proxy.asked_for == [(HOST, 443)]


@pytest.mark.parametrize("login", [None, (USER, PASSWORD)])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
def test_socks_proxy_resolves_the_host_name_of_a_call(
    login: tuple[str, str] | None,
    scheme: str,
    far: Server,
    start: Callable[[SmallProxy], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = SocksProxy(far.port, login)
    start(proxy)
    monkeypatch.setenv("ALL_PROXY", proxy.url(LOGIN if login else "").replace("socks5", scheme))
    assert job_ids(f"http://{HOST}:50051") == ["far"]
    assert proxy.asked_for == [(HOST, 50051)]
    assert proxy.logins == ([] if login is None else [login])


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_error_of_a_dead_proxy_names_the_proxy_without_its_password(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, but nobody listens
        port = bound.getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"{scheme}://{LOGIN}127.0.0.1:{port}")
        text = error_of(f"http://{HOST}:50051")
    assert (
        f"http://{HOST}:50051 cannot be reached through the proxy {scheme}://127.0.0.1:{port} (from HTTP_PROXY)" in text
    )
    assert "refused" in text
    assert f"NO_PROXY={HOST}" in text


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        pytest.param(lambda: ConnectProxy(1, ("other", "login")), "407 Proxy Authentication Required", id="407"),
        pytest.param(ConnectProxy, "502 Bad Gateway", id="502"),
        pytest.param(lambda: SocksProxy(1, ("other", "login")), "Invalid username/password", id="socks login"),
        pytest.param(SocksProxy, "could not connect", id="socks target"),
    ],
)
def test_error_names_a_proxy_that_does_not_forward_a_call(
    proxy: Callable[[], SmallProxy], said: str, start: Callable[[SmallProxy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = proxy()
    start(refusing)
    monkeypatch.setenv("HTTPS_PROXY", refusing.url(LOGIN if refusing.wants_login else ""))
    text = error_of(f"https://{HOST}")
    assert said in text
    assert f"the proxy {refusing.url()} (from HTTPS_PROXY)" in text


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway", "403 Forbidden"])
def test_error_names_a_proxy_that_answers_in_place_of_the_controller(
    status: str, far: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.answers[:] = [http(status, b"<html>", headers={"Server": "squid/6"})]
    monkeypatch.setenv("HTTP_PROXY", far.address.replace("://", f"://{LOGIN}"))
    with pytest.raises(IrisError) as caught:
        job_ids(f"http://{HOST}:50051")
    text = str(caught.value)
    assert f"'squid/6' answered {status}" in text
    assert f"; the call went through the proxy {far.address} (from HTTP_PROXY)" in text
    assert f"NO_PROXY={HOST}" in text
    assert PASSWORD not in text


def test_error_of_a_proxy_that_requires_a_login_names_the_variable_to_set(
    start: Callable[[SmallProxy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = ConnectProxy(1, ("other", "login"))
    start(refusing)
    monkeypatch.setenv("HTTPS_PROXY", refusing.url())
    assert "the proxy wants a login: put it into the proxy's URL" in error_of(f"https://{HOST}")


def test_call_that_a_proxy_refuses_is_not_retried(
    start: Callable[[SmallProxy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = ConnectProxy(1, ("other", "login"))
    start(refusing)
    monkeypatch.setenv("HTTPS_PROXY", refusing.url())
    error_of(f"https://{HOST}")
    assert len(refusing.asked_for) == 1


def test_error_names_a_proxy_that_does_not_speak_socks(far: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    far.answers[:] = [LIST]
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{listener.getsockname()[1]}")

        def answer() -> None:
            taken, _ = listener.accept()
            taken.recv(100)
            taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            taken.close()

        thread = threading.Thread(target=answer)
        thread.start()
        text = error_of(f"http://{HOST}:50051")
        thread.join()
    assert "no SOCKS5" in text
    assert "(from ALL_PROXY)" in text


@pytest.mark.parametrize(
    "url",
    [
        "ftp://proxy:1",
        "socks4://proxy:1",
        "http://",
        "http://user:secret@",
        "http://proxy:99999",
        "http://proxy:port",
        "http://user:secr#et@proxy:3128",
        "http://user:secr/et@proxy:3128",
        "http://[::zz]:1",
        "my proxy:3128",
    ],
)
def test_invalid_proxy_url_is_refused_with_the_name_of_its_variable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", url)
    with pytest.raises(FailedPreconditionError) as caught:
        find_proxy(f"https://{HOST}")
    assert "https_proxy" in str(caught.value)
    assert "expected 'http://host:port'" in str(caught.value)
    assert "secr" not in str(caught.value)


def test_error_for_a_socks_proxy_names_the_missing_extra(tmp_path: Path) -> None:
    """In a program that cannot import socksio, as where the extra is not installed."""
    code = f"""
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "socksio" else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from iris.client import IrisClient
from iris.errors import MissingExtraError
try:
    IrisClient.remote("http://{HOST}:1")
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"ALL_PROXY": "socks5://127.0.0.1:1"}, capture_output=True, text=True
    )
    assert "ALL_PROXY" in done.stdout, done
    assert "pip install 'iris-cluster[socks]'" in done.stdout
    assert issubclass(MissingExtraError, ImportError)


BYPASSED = [
    ("http://10.1.2.3:50051", "10.0.0.0/8"),
    ("http://10.1.2.3:50051", "192.168.0.0/16, 10.1.2.0/24"),
    ("http://10.1.2.3:50051", "10.1.2.9/24"),
    ("http://10.1.2.3:50051", "10.1.2.3"),
    ("http://10.1.2.3:50051", "10.1.2.3:50051"),
    ("http://10.1.2.3", "10.1.2.3:80"),
    ("http://[2001:db8::1]:1", "2001:db8::/32"),
    ("http://[2001:db8::1]:1", "[2001:DB8:0::1]"),
    ("http://[2001:db8::1]:1", "2001:db8::1"),
    ("http://[2001:db8::1]:1", "[2001:db8::1]:1"),
    ("http://[::ffff:10.1.2.3]:1", "10.0.0.0/8"),
    ("http://host.corp:1", "corp"),
    ("http://host.corp:1", ".corp"),
    ("http://host.corp:1", "*.corp"),
    ("http://corp:1", ".corp"),
    ("http://HOST.CORP:1", "host.corp"),
    ("http://host.corp:1", "Host.Corp."),
    ("http://host.corp.:1", "host.corp"),
    ("http://host.corp:1", "other host.corp"),
    ("http://host.corp:1", "other,\thost.corp ,"),
    ("http://host.corp:1", "http://host.corp"),
    ("https://host.corp", "host.corp:443"),
    ("http://host.corp:1", "all://*"),
    ("http://host.corp:1", "*"),
    ("http://host.corp:1", "other,*"),
]
NOT_BYPASSED = [
    ("http://10.1.2.3:50051", "11.0.0.0/8"),
    ("http://10.1.2.3:50051", "10.1.2.3:50052"),
    ("http://10.1.2.3:50051", "10.1.2"),
    ("http://10.1.2.3:50051", "10.1.2.3/33"),
    ("http://110.1.2.3:50051", "10.1.2.3"),
    ("http://host.corp:1", "10.0.0.0/8"),
    ("http://[2001:db8::1]:1", "10.0.0.0/8"),
    ("http://hostcorp:1", "corp"),
    ("http://corp.evil:1", "corp"),
    ("http://host.corp:1", "host.corp:2"),
    ("http://host.corp:1", "https://host.corp"),
    ("http://host.corp:1", ""),
    ("http://host.corp:1", " , ,"),
    ("http://host.corp:1", "."),
    ("http://host.corp:1", "/"),
]


@pytest.mark.parametrize(
    ("address", "no_proxy", "bypassed"),
    [*((*case, True) for case in BYPASSED), *((*case, False) for case in NOT_BYPASSED)],
)
def test_no_proxy_excludes_exactly_the_named_hosts(address: str, no_proxy: str, bypassed: bool) -> None:
    assert bypasses_proxy(urlsplit(address), no_proxy) is bypassed


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_address_in_a_range_of_no_proxy_is_called_without_a_proxy(
    variable: str, far: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", far.address)
    monkeypatch.setenv(variable, "192.0.2.0/24")
    assert find_proxy("http://192.0.2.1:50051") is None
    assert find_proxy("http://198.51.100.1:50051") is not None
    assert find_proxy("HTTP://LOCALHOST:50051".lower()) is None
    assert find_proxy("http://127.0.0.1:50051") is None


def test_text_of_a_proxy_contains_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@[2001:db8::1]:3128")
    proxy = find_proxy(f"http://{HOST}")
    assert str(proxy) == "the proxy http://[2001:db8::1]:3128 (from http_proxy)"
    assert "secret" not in repr(proxy)

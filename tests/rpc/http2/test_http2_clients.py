"""HTTP/2 with real clients: httpx and curl, in plain text and over TLS, on the port that also speaks HTTP/1.1."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvloop
from support.certificates import CertificateAuthority
from support.served_application import Served, served
from support.waiting import wait_until

from iris.rpc.http.tls import ServerTls

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module", params=LOOPS)
def world(request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(loop=LOOPS[request.param]()) as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=LOOPS)
def tls_world(request: pytest.FixtureRequest, authority: CertificateAuthority) -> Iterator[Served]:
    certificate = authority.server()
    context = ServerTls(str(certificate.cert), str(certificate.key)).context()
    with served(tls=context, loop=LOOPS[request.param]()) as running:
        yield running


def http2_client(verify: ssl.SSLContext | bool = True) -> httpx.Client:
    return httpx.Client(http1=False, http2=True, verify=verify, timeout=30)


def curl(*arguments: str) -> str:
    """Run curl, and return the version of HTTP and the body, separated by a space."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["curl", "-sS", "-w", "%{http_version} ", "-o", "-", "--max-time", "30", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unsupported" in done.stderr or "doesn't support" in done.stderr:
        pytest.skip("this curl has no HTTP/2")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_client_with_prior_knowledge_gets_http2(world: Served) -> None:
    with http2_client() as client:
        answer = client.post(f"{world.url}/s/count", content=bytes(300_000))
        assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "300000")
        assert "date" in answer.headers


def test_http1_and_http2_share_one_port(world: Served) -> None:
    with httpx.Client() as old, http2_client() as new:
        for _ in range(3):
            assert old.post(f"{world.url}/s/count", content=b"ab").http_version == "HTTP/1.1"
            assert new.post(f"{world.url}/s/count", content=b"ab").http_version == "HTTP/2"


def test_many_requests_share_one_connection(world: Served) -> None:
    with http2_client() as client:
        client.get(f"{world.url}/s/count")
        wait_until(lambda: world.call(lambda: len(world.limits.connections)) == 1, "connections of other tests to end")
        assert [client.post(f"{world.url}/s/count", content=b"x" * size).text for size in range(50)] == [
            str(size) for size in range(50)
        ]
        assert world.call(lambda: len(world.limits.connections)) == 1


def test_asgi_scope_describes_the_http2_request(world: Served) -> None:
    with http2_client() as client:
        text = client.post(f"{world.url}/s/scope?a=b%20c", headers={"x-y": "z", "Cookie": "a=b"}, content=b"abc").text
    scope = eval(text, {})
    assert (scope["http_version"], scope["method"], scope["path"], scope["query_string"]) == (
        "2", "POST", "/s/scope", b"a=b%20c",
    )  # fmt: skip
    assert scope["scheme"] == "http"
    assert scope["client"][0] == "127.0.0.1"
    assert "http.response.trailers" in scope["extensions"]
    headers = dict(scope["headers"])
    assert headers[b"host"] == f"127.0.0.1:{world.address[1]}".encode()
    assert headers[b"x-y"] == b"z"
    assert headers[b"content-length"] == b"3"
    assert not [name for name in headers if name.startswith(b":")]


def test_request_for_an_unknown_path_over_http2_gets_the_status_404(world: Served) -> None:
    with http2_client() as client:
        answer = client.get(f"{world.url}/elsewhere")
        assert answer.status_code == 404
        assert answer.text.startswith("This is Iris.")


def test_answer_to_a_head_request_over_http2_has_no_body(world: Served) -> None:
    with http2_client() as client:
        assert client.head(f"{world.url}/s/count").content == b""


def test_client_that_closes_a_stream_early_ends_the_application(world: Served) -> None:
    world.disconnected.clear()
    with http2_client() as client, client.stream("POST", f"{world.url}/s/endless") as answer:
        assert next(answer.iter_raw())
    wait_until(world.disconnected.is_set, "the application to hear that the client has left")


@pytest.mark.parametrize("arguments", [["--http2-prior-knowledge"], ["--http2"], ["--http1.1"]])
def test_curl_gets_an_answer_over_http1_and_http2(world: Served, arguments: list[str]) -> None:
    # Without prior knowledge, curl offers to continue in HTTP/2 (`Upgrade: h2c`). The server ignores the offer.
    version = "2" if "prior" in arguments[0] else "1.1"
    body = "x" * 100_000
    for sent in ("abc", body):
        assert curl(*arguments, "-d", sent, f"{world.url}/s/count") == f"{len(sent)}{version} "


def test_curl_reads_an_answer_that_comes_before_the_whole_request(world: Served, tmp_path: Path) -> None:
    """curl 7.88 drops an answer that arrives together with the reset of its stream."""
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    assert curl("--http2-prior-knowledge", "--data-binary", f"@{large}", f"{world.url}/s/early") == "02 "


def test_curl_repeats_requests_whose_http2_offer_is_ignored_on_one_connection(world: Served) -> None:
    connections = world.call(lambda: len(world.limits.connections))
    url = f"{world.url}/s/count"
    assert curl("--http2", "-d", "abc", url, url, url) == "31.1 " * 3
    assert world.call(lambda: len(world.limits.connections)) <= connections + 1


def test_tls_chooses_http2_if_the_client_offers_it(tls_world: Served, authority: CertificateAuthority) -> None:
    trusted = ssl.create_default_context(cafile=authority.path)
    with httpx.Client(http2=True, verify=trusted) as client:
        answer = client.post(f"{tls_world.url}/s/count", content=bytes(1_000_000))
        assert (answer.http_version, answer.text) == ("HTTP/2", "1000000")
        assert eval(client.get(f"{tls_world.url}/s/scope").text, {})["scheme"] == "https"
    with httpx.Client(verify=trusted) as client:
        assert client.get(f"{tls_world.url}/s/count").http_version == "HTTP/1.1"


@pytest.mark.parametrize(("argument", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_curl_over_tls_gets_the_version_that_it_offers(
    tls_world: Served, authority: CertificateAuthority, argument: str, version: str
) -> None:
    cacert = str(Path(authority.path))
    assert curl(argument, "--cacert", cacert, "-d", "abc", f"{tls_world.url}/s/count") == f"3{version} "


WITHOUT_H2 = """
import asyncio, logging, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "h2" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder

from iris.event_log import set_up_event_log
from iris.rpc.http.server.asgi_server import HttpServer
from iris.system.sockets import bind

async def main():
    set_up_event_log(None, level="info", log_format="text")
    listener = bind("127.0.0.1", 0)
    server = HttpServer({}, listener)
    server.start()
    print(listener.getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close()

asyncio.run(main())
"""


def test_server_without_h2_reports_this_and_speaks_http1() -> None:
    program = [sys.executable, "-c", WITHOUT_H2]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
        with httpx.Client() as old, http2_client() as new:
            assert old.get(url).text.startswith("This is Iris.")
            with pytest.raises(httpx.RemoteProtocolError):
                new.get(url)
        _, events = server.communicate(timeout=30)
    assert events.count("server.no_http2") == 1

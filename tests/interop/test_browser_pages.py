"""Pages in headless Chromium: the page of examples/clients, eight follows at once, and EventSource through a cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
from support.certificates import Certificate, self_signed
from support.client_programs import TYPESCRIPT, TypeScript, need_node_modules
from support.cluster import launch, running_cluster, shell
from support.page_server import PageServer
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer

HERE = Path(__file__).parent
BROWSERS = ("chromium-headless-shell", "chromium")
EVENTS_PAGE = b"""<!doctype html><meta charset="utf-8"><pre id="log"></pre><p id="state"></p><script>
const source = new EventSource("/v1/jobs/" + new URLSearchParams(location.search).get("job") + "/logs?follow=1");
source.onmessage = (event) => document.getElementById("log").append(JSON.parse(event.data).message + "\\n");
source.addEventListener("ended", (event) => {
  source.close();
  document.getElementById("state").textContent = event.data;
});
</script>"""


class Page:
    """A page in a browser."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._seen: list[dict[str, str]] = []

    def until(self, name: str, words: str) -> str:
        """Return the text of an element as soon as the text contains words."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen.append(json.loads(line))
            text = self._seen[-1].get(name, "")
            if words in text:
                return text
        raise AssertionError(f"the page never shows {words!r}: {self._seen}")


@pytest.fixture(scope="module")
def browser() -> str:
    """The path of a browser."""
    need_node_modules()
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs {' or '.join(BROWSERS)}")
    return found


@contextmanager
def opened(browser: str, url: str, until: str) -> Iterator[Page]:
    """Open a page, until its state matches a pattern."""
    command = ["node", HERE / "drive_page.mjs", TYPESCRIPT / "node_modules", browser, url, until]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Page(process)
            assert process.wait(60) == 0
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def pages(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with the page of examples/clients and the page that follows eight logs."""
    programs = TypeScript(tmp_path_factory.mktemp("pages") / "typescript")
    shutil.copy(HERE / "eight_follows.ts", programs.directory)
    page = (programs.directory / "page.html").read_bytes()
    files = {
        "/page.html": page,
        "/page.js": programs.bundle("page.ts", "browser").read_bytes(),
        "/eight.html": page.replace(b"page.js", b"eight_follows.js"),
        "/eight_follows.js": programs.bundle("eight_follows.ts", "browser").read_bytes(),
    }
    with PageServer(files) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The certificate of `tls_cluster`."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def tls_cluster(
    pages: PageServer, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """A cluster with TLS that pages of `pages` may call."""
    files = {"tls_cert": str(certificate.cert), "tls_key": str(certificate.key)}
    with running_cluster(tmp_path_factory.mktemp("tls"), allow_origins=(pages.origin,), **files) as server:
        yield server


@pytest.mark.parametrize("protocol", ["connect", "grpc-web"])
def test_page_of_another_origin_follows_a_log_while_it_is_written_and_reads_the_failure(
    browser: str, pages: PageServer, tls_cluster: LocalServer, tmp_path: Path, protocol: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    given = {"protocol": protocol, "address": tls_cluster.address, "token": token()}
    words = [("command", word) for word in shell(f"echo first; cat {pipe}; exit 3")]
    url = f"{pages.origin}/page.html?{urlencode([*given.items(), *words])}"
    with opened(browser, url, "ended|failed") as page:
        page.until("log", "first\n")
        pipe.write_text("größe\n")
        assert page.until("log", "größe\n") == "first\ngröße\n"
        assert page.until("state", "ended").endswith(" ended FAILED: exit code 3")


def test_page_of_an_origin_that_is_not_allowed_reads_nothing(
    browser: str, pages: PageServer, shared_cluster: LocalServer
) -> None:
    given = {"address": shared_cluster.address, "token": token(), "command": "true"}
    with opened(browser, f"{pages.origin}/page.html?{urlencode(given)}", "ended|failed") as page:
        assert "Failed to fetch" in page.until("state", "failed")


def test_page_follows_eight_logs_at_once_over_http2(
    browser: str, pages: PageServer, tls_cluster: LocalServer, certificate: Certificate, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with RemoteClusterClient(tls_cluster.address, ca=certificate.cert) as client:
        job_id = launch(client, shell(f"echo first; cat {pipe}"))
    given = {"address": tls_cluster.address, "token": token(), "job": job_id}
    with opened(browser, f"{pages.origin}/eight.html?{urlencode(given)}", "ended") as page:
        page.until("state", "8 begun")
        pipe.write_text("last\n")
        page.until("state", "8 ended")


def test_event_source_neither_loses_nor_repeats_a_line_after_a_cut_connection(
    browser: str, shared_cluster: LocalServer, cluster: RemoteClusterClient, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    job_id = launch(cluster, shell(f"echo first; cat {pipe}; echo last"))
    with PageServer({"/page.html": EVENTS_PAGE}, shared_cluster.address, token()) as server:
        server.cuts = 1
        with opened(browser, f"{server.origin}/page.html?job={job_id}", "ended") as page:
            page.until("log", "first\n")
            wait_until(lambda: len(server.forwarded) == 2, "the browser's second request")
            pipe.write_text("second\n")
            assert page.until("log", "last\n") == "first\nsecond\nlast\n"
            assert "SUCCEEDED" in page.until("state", "ended")
    first, second = server.forwarded
    assert "last-event-id" not in first
    assert second["last-event-id"]

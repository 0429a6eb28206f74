"""Pages in headless Chromium: eight follows at once, and EventSource through a cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.client_programs import TYPESCRIPT, need_node_modules
from support.cluster import launch, shell
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


def test_event_source_continues_after_a_cut_without_a_lost_or_doubled_line(
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

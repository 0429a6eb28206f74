"""Jobs, tasks and progress in a notebook: in a shell of IPython whose page keeps what was shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique

from iris.cluster.client.server_process import LocalServer

# A notebook's shell without its kernel process. The publisher keeps each message to the page.
PROGRAM = """
import asyncio, json, os, sys, threading
from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

published = []
changed = threading.Condition()

class Publisher(DisplayPublisher):
    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **kwargs):
        with changed:
            published.append({"data": data, "update": update, "id": (transient or {}).get("display_id")})
            changed.notify_all()

def until(text):
    with changed:
        assert changed.wait_for(lambda: text in json.dumps(published), 60), published

shell = InteractiveShell.instance(display_pub_class=Publisher)
shell.kernel = object()
hook = CapturingDisplayHook(shell=shell, outputs=[])

def last_of_each_cell():
    return list({message["id"]: message for message in published}.values())

def show(value):
    "Show a value as a cell does whose last line is the value."
    hook(value)

address, name = sys.argv[1:]
from iris import AsyncIrisClient, IrisClient
"""


def run(text: str, server: LocalServer, name: str, tmp_path: Path) -> Any:
    """Run a program in the shell, and return the published messages and the values shown in cells."""
    end = 'print(json.dumps({"published": published, "values": [one["data"] for one in hook.outputs if one["data"]]}))'
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + text + end, server.address, name],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def html_of(message: Any) -> str:
    html: str = message["data"]["text/html"]
    return html


@pytest.fixture(scope="module")
def shown(shared_cluster: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    text = """
client = IrisClient.remote(address)
waits = ["sh", "-c", "while ! test -e go; do sleep 0.02; done; exit 5"]
job = client.run(waits, name=name, working_directory=os.getcwd())
show(job)
until("RUNNING")
open("go", "w").close()
until("FAILED")
show(client.status(job))
show(client.task_status(job, 0))
show(client.list_jobs()[-1:])
show(job.tasks()[0])
show(client.machines())
"""
    return run(text, shared_cluster, unique("book"), tmp_path_factory.mktemp("notebook"))


def test_job_in_a_notebook_is_a_table_that_follows_the_job_to_its_end(shown: Any) -> None:
    first, *others = [message for message in shown["published"] if message["id"] == shown["published"][0]["id"]]
    assert not first["update"]
    assert all(message["update"] for message in others)
    assert "RUNNING" in " ".join(map(html_of, others))
    assert ": FAILED, 1/1 failed" in html_of(others[-1])
    assert "<table>" in html_of(others[-1])


def test_status_messages_in_a_notebook_are_shown_as_tables(shown: Any) -> None:
    job, task, listed, machines = shown["values"]
    for value, words in (
        (job, "1/1 failed"),
        (task, "exit code 5"),
        (listed, "1 job"),
        (machines, "local: 2 machines"),
    ):
        assert words in value["text/html"], value
        assert words in value["text/plain"], value
        assert "<table>" in value["text/html"]
        assert "resource_usage" not in value["text/plain"]


def test_task_in_a_notebook_is_a_table(shown: Any) -> None:
    assert "exit code 5" in html_of(shown["published"][-1])
    assert shown["published"][-1]["update"]


def test_async_job_in_a_notebook_is_a_table_that_follows_the_job(shared_cluster: LocalServer, tmp_path: Path) -> None:
    text = """
async def cell():
    async with AsyncIrisClient.remote(address) as client:
        job = await client.run(["true"], name=name)
        show(job)
        await job.wait()
        show((await job.tasks())[0])
        while sum("<table>" in message["data"]["text/html"] for message in last_of_each_cell()) < 2:
            await asyncio.sleep(0.01)
asyncio.run(cell())
"""
    published = run(text, shared_cluster, unique("async-book"), tmp_path)["published"]
    assert html_of(published[0]).startswith("<div>AsyncJob(")
    pages = " ".join(map(html_of, published))
    assert ": SUCCEEDED, 1/1 succeeded" in pages
    assert "<b>task async-book-" in pages


def test_blocking_call_in_a_notebook_cell_gives_no_warning(shared_cluster: LocalServer, tmp_path: Path) -> None:
    text = """
import warnings
warnings.simplefilter("error")
async def cell():
    IrisClient.remote(address).list_jobs()
asyncio.run(cell())
"""
    assert run(text, shared_cluster, "unused", tmp_path)["published"] == []


def test_progress_in_a_notebook_replaces_one_cell_and_escapes_its_text(
    shared_cluster: LocalServer, tmp_path: Path
) -> None:
    text = """
from iris.display.board import show_progress
from iris.display.progress import Progress
with show_progress(None, Progress("map <b>", total=4), quiet_s=0) as display:
    until("0/4")
    display.update(Progress("map <b>", total=4, done=3))
    until("3/4")
    display.finish("done & dusted")
"""
    published = run(text, shared_cluster, "unused", tmp_path)["published"]
    assert [message["update"] for message in published] == [False, *[True] * (len(published) - 1)]
    assert len({message["id"] for message in published}) == 1
    assert '<b>map &lt;b&gt;</b> <progress max="4" value="0">' in html_of(published[0])
    assert html_of(published[-1]) == '<div class="iris-progress">done &amp; dusted</div>'


def test_job_handle_in_a_terminal_of_ipython_is_shown_as_its_repr(shared_cluster: LocalServer, tmp_path: Path) -> None:
    text = 'del shell.kernel\nshow(IrisClient.remote(address).job("train"))\n'
    shown = run(text, shared_cluster, "unused", tmp_path)
    assert shown == {"published": [], "values": [{"text/plain": "Job('train')"}]}

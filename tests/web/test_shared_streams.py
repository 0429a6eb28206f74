"""Tabs share streams through the shared worker, so that the six connections of HTTP/1.1 never run out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from support.browser_pages import Pages, reload
from support.cluster import launch as submit
from support.cluster import running_cluster, shell
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.controller.storage.store import Store
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerThread]:
    """A controller without workers, so that jobs wait until they are terminated."""
    store = Store(tmp_path_factory.mktemp("tabs") / "controller.db")
    with serving(FakeEngine(), store) as served:
        yield served


@pytest.fixture
def client(controller: ControllerThread) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(controller.address) as made:
        yield made


def launch(client: RemoteClusterClient, name: str) -> str:
    return client.launch_job(pb.Controller.LaunchJobRequest(name=name, command=["true"]))


def clients_of_lists(controller: ControllerThread) -> list[int]:
    """Return the number of clients of each watched list, as the controller sees them."""
    return controller.call(lambda: [watch.clients for watch in controller.controller.list_watches.watches()])


def test_seven_tabs_with_the_same_list_share_one_stream_and_all_of_them_are_live(
    controller: ControllerThread, client: RemoteClusterClient, pages: Pages
) -> None:
    first = pages.open(controller.address)
    expect(first.get_by_text("There are no jobs yet")).to_be_visible()
    tabs = [first, *(pages.open_tab(first.context, controller.address) for _ in range(6))]
    job_id = launch(client, "shared")
    for tab in tabs:
        expect(tab.get_by_role("link", name=job_id)).to_be_visible()
    wait_until(lambda: clients_of_lists(controller) == [1], "one shared stream")
    client.terminate_job(job_id)
    for tab in tabs:
        expect(tab.get_by_role("row").filter(has_text=job_id)).to_contain_text("killed")
    for tab in tabs[1:]:
        tab.close()
    assert clients_of_lists(controller) == [1]
    first.close()
    wait_until(lambda: not clients_of_lists(controller), "the end of the shared stream")


def test_tabs_with_more_lists_than_connections_take_turns_and_leave_connections_for_calls(
    controller: ControllerThread, client: RemoteClusterClient, pages: Pages
) -> None:
    for number in range(8):
        launch(client, f"job-{number}")
    first = pages.open(controller.address, "#/jobs?name=job-0")
    expect(first.get_by_role("link", name="job-0")).to_be_visible()
    tabs = [first, *(_open(pages, first.context, controller, number) for number in range(1, 8))]
    wait_until(lambda: len(tabs_in_turns(tabs)) >= 4, "tabs that say that they take turns")
    # A call in any tab gets a connection at once, although eight lists are open.
    assert first.evaluate("fetch('icon.svg').then((answer) => answer.status)") == 200
    new = [launch(client, f"job-{number}-new") for number in range(8)]
    for tab, job_id in zip(tabs, new, strict=True):
        expect(tab.get_by_role("link", name=job_id)).to_be_visible()
        wait_until(lambda: len(clients_of_lists(controller)) <= 4, "at most four streams, apart from those that end")
    tab = tabs_in_turns(tabs)[0]
    tab.get_by_role("button", name="Update at once").click()
    expect(tab.get_by_text(TAKES_TURNS)).not_to_be_visible()


TAKES_TURNS = "updated every few seconds"


def tabs_in_turns(tabs: list[Page]) -> list[Page]:
    """Return the tabs that say that their streams are open in turns only."""
    return [tab for tab in tabs if tab.get_by_text(TAKES_TURNS).is_visible()]


def _open(pages: Pages, context: BrowserContext, controller: ControllerThread, number: int) -> Page:
    tab = pages.open_tab(context, controller.address, f"#/jobs?name=job-{number}")
    expect(tab.get_by_role("link", name=f"job-{number}")).to_be_visible()
    return tab


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster that runs tasks."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.mark.long  # The tests around it prove the same with more streams.
def test_two_tabs_with_twelve_followed_tasks_and_three_lists_are_live_over_six_connections(
    server: LocalServer, pages: Pages, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = f'echo "first $IRIS_TASK_INDEX"; while [ ! -e {gate} ]; do sleep 0.1; done; echo "last $IRIS_TASK_INDEX"'
    with RemoteClusterClient(server.address) as client:
        jobs = [submit(client, shell(script), replicas=6) for _ in range(2)]
    first = pages.open(server.address, f"#/jobs/{jobs[0]}/logs")
    tabs = [first, pages.open_tab(first.context, server.address, f"#/jobs/{jobs[1]}/logs")]
    for tab in tabs:
        for index in range(6):
            expect(tab.locator(".log-row").filter(has_text=f"first {index}")).to_be_visible()
    lists = [pages.open_tab(first.context, server.address) for _ in range(3)]
    for tab in lists:
        expect(tab.get_by_role("link", name=jobs[0])).to_be_visible()
    gate.touch()
    for tab in tabs:
        for index in range(6):
            expect(tab.locator(".log-row").filter(has_text=f"last {index}")).to_be_visible()
    for job_id in jobs:
        row = lists[-1].get_by_role("row").filter(has_text=job_id)
        expect(row.filter(has_text="succeeded")).to_be_visible()
    assert first.evaluate("fetch('icon.svg').then((answer) => answer.status)") == 200


@pytest.mark.parametrize("count", [5, pytest.param(12, marks=pytest.mark.long)])
def test_followed_logs_of_different_jobs_are_all_live_over_six_connections(
    server: LocalServer, pages: Pages, tmp_path: Path, count: int
) -> None:
    script = f"for turn in 1 2; do while [ ! -e {tmp_path}/$turn ]; do sleep 0.1; done; echo line $turn; done; exit 3"
    with RemoteClusterClient(server.address) as client:
        jobs = [submit(client, shell(f"echo line 0; {script}")) for _ in range(count)]
    first = pages.open(server.address, f"#/jobs/{jobs[0]}/logs")
    tabs = [first, *(pages.open_tab(first.context, server.address, f"#/jobs/{job}/logs") for job in jobs[1:])]
    for tab in tabs:
        expect(tab.locator(".log-row").filter(has_text="line 0")).to_be_visible()
    for turn in (1, 2):
        (tmp_path / str(turn)).touch()
        for tab in tabs:
            expect(tab.locator(".log-row").filter(has_text=f"line {turn}")).to_be_visible()
    for tab in tabs:
        expect(tab.get_by_text("This is the whole log")).to_be_visible()
        assert tab.locator(".log-row:not(.log-separator) .log-text").all_text_contents() == [
            "line 0",
            "line 1",
            "line 2",
        ]


def test_page_without_shared_workers_opens_its_own_streams(
    controller: ControllerThread, client: RemoteClusterClient, pages: Pages
) -> None:
    page = pages.open(controller.address, "#/nowhere")
    page.context.add_init_script("delete window.SharedWorker")
    page.goto(f"{controller.address}/#/jobs")
    reload(page)
    expect(page.get_by_text("There are no jobs yet")).to_be_visible()
    job_id = launch(client, "alone")
    expect(page.get_by_role("row").filter(has_text=re.compile(job_id))).to_contain_text("pending")
    assert page.evaluate("typeof SharedWorker") == "undefined"

"""Tabs share streams through the shared worker, so that the six connections of HTTP/1.1 never run out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect
from support.browser_pages import Pages, try_now
from support.cluster import launch as submit
from support.cluster import running_cluster, shell
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
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


def test_twelve_tabs_with_the_same_list_share_one_stream_and_all_of_them_are_live(
    controller: ControllerThread, client: RemoteClusterClient, pages: Pages
) -> None:
    first = pages.open(controller.address)
    expect(first.get_by_text("There are no jobs yet")).to_be_visible()
    tabs = [first, *(pages.open_tab(first.context, controller.address) for _ in range(11))]
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


def test_tabs_with_different_lists_leave_connections_for_calls_and_continue_when_looked_at(
    controller: ControllerThread, client: RemoteClusterClient, pages: Pages
) -> None:
    for number in range(8):
        launch(client, f"job-{number}")
    first = pages.open(controller.address, "#/jobs?name=job-0")
    expect(first.get_by_role("link", name="job-0")).to_be_visible()
    tabs = [first, *(_open(pages, first.context, controller, number) for number in range(1, 8))]
    wait_until(lambda: len(clients_of_lists(controller)) == 4, "four streams")
    wait_until(lambda: len(paused_tabs(tabs)) == 4, "four paused tabs")
    paused = paused_tabs(tabs)
    # A call in any tab gets a connection at once, although eight lists are open.
    last = tabs[-1]
    last.get_by_role("link", name="Cluster").click()
    expect(last.get_by_role("heading", level=1)).to_have_text("Cluster")
    tab = paused[0]
    tab.get_by_role("button", name="Continue here").click()
    expect(tab.get_by_text("Paused, because other tabs")).not_to_be_visible()
    number = tabs.index(tab)
    job_id = launch(client, f"job-{number}-new")
    expect(tab.get_by_role("link", name=job_id)).to_be_visible()
    wait_until(lambda: len(clients_of_lists(controller)) <= 4, "at most four streams")


def paused_tabs(tabs: list[Page]) -> list[Page]:
    """Return the tabs that say that their stream is paused."""
    return [tab for tab in tabs if tab.get_by_text("Paused, because other tabs").is_visible()]


def see(tab: Page, row: Locator) -> None:
    """Look at a tab until it shows a row. If the stream of the tab is paused, the tab continues the stream."""

    def is_shown() -> bool:
        if not row.is_visible():
            try_now(tab)
        return row.is_visible()

    tab.bring_to_front()
    wait_until(is_shown, "the row")


def _open(pages: Pages, context: BrowserContext, controller: ControllerThread, number: int) -> Page:
    tab = pages.open_tab(context, controller.address, f"#/jobs?name=job-{number}")
    expect(tab.get_by_role("link", name=f"job-{number}")).to_be_visible()
    return tab


def test_two_tabs_with_twelve_followed_tasks_and_three_lists_are_live_over_six_connections(
    pages: Pages, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = f'echo "first $IRIS_TASK_INDEX"; while [ ! -e {gate} ]; do sleep 0.1; done; echo "last $IRIS_TASK_INDEX"'
    with running_cluster(tmp_path / "cluster") as server, RemoteClusterClient(server.address) as client:
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
                see(tab, tab.locator(".log-row").filter(has_text=f"last {index}"))
        for job_id in jobs:
            see(lists[-1], lists[-1].get_by_role("row").filter(has_text=job_id).filter(has_text="succeeded"))
        assert first.evaluate("fetch('icon.svg').then((answer) => answer.status)") == 200


def test_page_without_shared_workers_opens_its_own_streams(
    controller: ControllerThread, client: RemoteClusterClient, pages: Pages
) -> None:
    page = pages.open(controller.address, "#/nowhere")
    page.context.add_init_script("delete window.SharedWorker")
    page.goto(f"{controller.address}/#/jobs")
    page.reload()
    expect(page.get_by_text("There are no jobs yet")).to_be_visible()
    job_id = launch(client, "alone")
    expect(page.get_by_role("row").filter(has_text=re.compile(job_id))).to_contain_text("pending")
    assert page.evaluate("typeof SharedWorker") == "undefined"

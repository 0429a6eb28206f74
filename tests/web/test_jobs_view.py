"""The list of jobs in the browser: live rows, filters, many jobs, keyboard, hostile names, and a lost connection."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.browser_pages import Pages, accessibility_problems, reload, try_now
from support.cluster import launch, running_cluster, shell, unique, wait_for_end
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.ports import free_port
from support.stored_jobs import failed, new_job, stored, succeeded
from support.tokens import keep_key

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.controller.storage.store import Changes, Store
from iris.rpc.cluster_pb2 import ResourceSpecProto

FIRST, MANY = 8_000, 2_000
HOSTILE = [
    "<script>document.title='owned'<\u2215script>",
    '"><img src=x onerror="document.title=1">',
    "\u05e9\u05dc\u05d5\u05dd 123",
    "a" * 180,
    "50%25 & ?#=+",
    "gr\u00f6\u00dfe \U0001f600",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster of one worker with 2,000 ended jobs, every hundredth of which has failed."""
    directory = tmp_path_factory.mktemp("cluster")
    keep_key(directory)
    store = Store(directory / "controller.db")
    changes = Changes()
    for number in range(FIRST, FIRST + MANY):
        job = new_job(f"old-{number:05}")
        job.owner = "ann" if number % 3 else "bob"
        (succeeded if number % 100 else failed)(job)
        changes.add_job(stored(job), b"")
    store.write(changes)
    store.close()
    with running_cluster(directory) as running:
        yield running


@pytest.fixture
def client(server: LocalServer) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(server.address) as made:
        yield made


def names(page: Page) -> list[str]:
    return page.locator("[data-row-focus]").all_inner_texts()


def test_list_of_jobs_shows_when_a_new_job_appears_runs_and_ends(
    server: LocalServer, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    page = pages.open(server.address)
    expect(page.get_by_role("link", name="old-09999")).to_be_visible()
    gate = tmp_path / "gate"
    job_id = launch(client, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 7"))
    listed = page.get_by_role("row").filter(has_text=job_id)
    expect(listed).to_contain_text("running")
    assert names(page)[0] == job_id
    gate.touch()
    expect(listed).to_contain_text("failed")
    expect(listed).to_contain_text("exit code 7")
    expect(listed.get_by_role("img")).to_have_attribute("aria-label", "tasks: 1 failed")
    page.get_by_role("link", name=job_id).click()
    expect(page).to_have_url(re.compile(f"#/jobs/{job_id}$"))


def test_list_of_jobs_shows_why_a_job_waits(server: LocalServer, client: RemoteClusterClient, pages: Pages) -> None:
    page = pages.open(server.address)
    cores = len(os.sched_getaffinity(0))
    holds = launch(client, ["sleep", "600"], resources=_cores(cores))
    waits = launch(client, ["true"], resources=_cores(cores))
    listed = page.get_by_role("row").filter(has_text=waits)
    expect(listed).to_contain_text("pending")
    expect(listed).to_contain_text(f"needs {cores} cpu")
    for job_id in (waits, holds):
        client.terminate_job(job_id)
        expect(page.get_by_role("row").filter(has_text=job_id)).to_contain_text("killed")


def _cores(cpu: int) -> ResourceSpecProto:
    return ResourceSpecProto(cpu=cpu, replicas=1)


def test_filters_of_the_list_of_jobs_are_in_the_address_and_survive_a_reload(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address)
    page.get_by_role("button", name=re.compile("^failed")).click()
    page.get_by_role("searchbox", name="Part of the name").fill("-097")
    page.get_by_role("searchbox", name="Owner").fill("ann")
    expect(page).to_have_url(re.compile(r"#/jobs\?state=FAILED&name=-097&owner=ann$"))
    expect(page.locator("[data-row-focus]")).to_have_text(["old-09700"])
    reload(page)
    expect(page.locator("[data-row-focus]")).to_have_text(["old-09700"])
    expect(page.get_by_role("button", name=re.compile("^failed"))).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("link", name="old-09999")).to_be_visible()
    expect(page).to_have_url(re.compile(r"#/jobs$"))


def test_filter_without_a_matching_job_offers_to_show_all_jobs(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, "#/jobs?name=nothing-like-this")
    expect(page.get_by_role("heading", name="No job meets these conditions")).to_be_visible()
    page.get_by_role("button", name="Show all jobs").click()
    expect(page.get_by_role("link", name="old-09999")).to_be_visible()


def test_list_of_two_thousand_jobs_has_pages_and_few_rows_in_the_document(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, "#/jobs?name=old-")
    table = page.get_by_role("table", name="Jobs")
    expect(table).to_have_attribute("aria-rowcount", "1001")
    assert page.locator("[data-row]").count() < 80
    page.locator(".virtual-rows").evaluate("element => element.scrollTo(0, element.scrollHeight)")
    expect(page.get_by_role("link", name="old-09000")).to_be_visible()
    expect(page.get_by_text("1,000 of 2,000 jobs")).to_be_visible()
    assert page.locator("[data-row]").count() < 80
    page.get_by_role("link", name="Older jobs").click()
    expect(page.get_by_role("link", name="old-08999")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("link", name="old-09999")).to_be_visible()


def test_visible_row_of_the_list_of_jobs_stays_in_place_when_new_jobs_appear(
    server: LocalServer, client: RemoteClusterClient, pages: Pages
) -> None:
    page = pages.open(server.address)
    expect(page.get_by_role("link", name="old-09999")).to_be_visible()
    page.locator(".virtual-rows").evaluate("element => element.scrollTo(0, 3400)")
    seen = page.get_by_role("link", name="old-09890")
    before = seen.bounding_box()
    total = page.get_by_role("button", name=re.compile("^all"))
    count = total.inner_text()
    job_id = launch(client, ["true"])
    wait_for_end(client, job_id)
    expect(total).not_to_have_text(count)
    after = seen.bounding_box()
    assert before is not None
    assert after is not None
    assert before["y"] == after["y"]


def test_list_of_jobs_can_be_searched_and_opened_with_the_keyboard_alone(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address)
    expect(page.get_by_role("link", name="old-09999")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("old-082")
    expect(page.get_by_role("table", name="Jobs")).to_have_attribute("aria-rowcount", "101")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("link", name="old-08299")).to_be_focused()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="old-08298")).to_be_focused()
    page.keyboard.press("End")
    expect(page.get_by_role("link", name="old-08200")).to_be_focused()
    page.keyboard.press("Home")
    expect(page.get_by_role("link", name="old-08299")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"#/jobs/old-08299$"))


def test_text_in_a_filter_stays_as_typed_after_the_filter_is_applied(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address)
    field = page.get_by_role("searchbox", name="Owner")
    field.press_sequentially("nobody ")
    expect(page).to_have_url(re.compile(r"owner=nobody$"))
    expect(page.get_by_text("No job meets these conditions")).to_be_visible()
    expect(field).to_have_value("nobody ")
    field.press_sequentially("else")
    expect(page).to_have_url(re.compile(r"owner=nobody(\+|%20)else$"))
    expect(field).to_have_value("nobody else")


def test_clearing_the_filters_cancels_a_change_that_was_not_applied_yet(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, "#/jobs?name=old-08")
    name, owner = (page.get_by_role("searchbox", name=label) for label in ("Part of the name", "Owner"))
    expect(page.get_by_role("button", name="Clear")).to_be_visible()
    name.evaluate(
        """field => {
          field.value = "old-082";
          field.dispatchEvent(new Event("input", { bubbles: true }));
          document.querySelector(".job-fields button").click();
        }"""
    )
    expect(name).to_have_value("")
    # The change of this field is applied later than the change of the other field would have been.
    owner.press_sequentially("nobody")
    expect(page).to_have_url(re.compile(r"#/jobs\?owner=nobody$"))
    expect(name).to_have_value("")


def test_hostile_names_of_jobs_are_shown_as_text(
    server: LocalServer, client: RemoteClusterClient, pages: Pages
) -> None:
    prefix = unique("hostile")
    job_ids = [launch(client, ["true"], name=f"{prefix} {name}") for name in HOSTILE]
    page = pages.open(server.address, f"#/jobs?name={prefix}")
    for job_id in job_ids:
        link = page.locator("[data-row-focus]").filter(has_text=re.compile(re.escape(job_id[:60])))
        assert link.get_attribute("title") == job_id
        assert link.text_content() == job_id
    assert page.locator("[data-row] script, [data-row] img:not([role])").count() == 0
    assert page.title() == "Jobs · Iris"
    page.locator("[data-row-focus]").first.click()
    expect(page).not_to_have_title("Jobs · Iris")


def test_page_shows_a_lost_connection_until_the_controller_answers_again(pages: Pages, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "first", port=free_port()) as first:
        with RemoteClusterClient(first.address) as client:
            job_id = launch(client, ["true"])
        page = pages.open(first.address)
        expect(page.get_by_role("link", name=job_id)).to_be_visible()
        expect(page.get_by_text("The connection was lost")).not_to_be_visible()
    expect(page.get_by_text(re.compile(r"The connection was lost at \d\d:\d\d:\d\d"))).to_be_visible()
    expect(page.get_by_role("link", name=job_id)).to_be_visible()
    with running_cluster(tmp_path / "first", port=first.port):
        try_now(page)
        expect(page.get_by_text("The connection was lost")).not_to_be_visible()
        expect(page.get_by_role("row").filter(has_text=job_id)).to_contain_text("succeeded")
    pages.errors.clear()


def test_list_of_a_cluster_without_jobs_shows_a_command_that_submits_a_job(pages: Pages, tmp_path: Path) -> None:
    with (
        serving(FakeEngine(), Store(tmp_path / "controller.db")) as empty,
        RemoteClusterClient(empty.address) as client,
    ):
        page = pages.open(empty.address)
        expect(page.get_by_text("iris run -- echo hello")).to_be_visible()
        assert accessibility_problems(page) == []
        pages.take_screenshots(page, "jobs-empty")
        job_id = launch(client, ["true"])
        expect(page.get_by_role("link", name=job_id)).to_be_visible()


def test_list_of_jobs_has_no_serious_accessibility_problem(
    server: LocalServer, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    with jobs_in_many_states(client, tmp_path) as job_id:
        page = pages.open(server.address, color_scheme="light")
        expect(page.get_by_role("row").filter(has_text=job_id)).to_contain_text("running")
        assert accessibility_problems(page) == []
        page.emulate_media(color_scheme="dark")
        assert accessibility_problems(page, "color-contrast") == []
        pages.take_screenshots(page, "jobs")
        page.set_viewport_size({"width": 390, "height": 800})
        assert accessibility_problems(page) == []


@contextmanager
def jobs_in_many_states(client: RemoteClusterClient, directory: Path) -> Iterator[str]:
    """Run jobs that wait, fail, end, and run. Yield the job that runs."""
    gate = directory / "gate"
    waiting = launch(client, ["true"], replicas=40, resources=_cores(4_000))
    wait_for_end(client, launch(client, shell("exit 3"), name=unique("sweep-lr-0.001")))
    job_id = launch(client, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done"), replicas=3, name=unique("train"))
    try:
        yield job_id
    finally:
        gate.touch()
        client.terminate_job(waiting)
        wait_for_end(client, job_id)

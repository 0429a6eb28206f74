"""The start of the page when its files, its program or the shared worker fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import pytest
from playwright.sync_api import Page, Route, expect
from support.browser_pages import Pages, go_to, try_now
from support.cluster import unique
from support.controller_thread import ControllerThread
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def page(controller: ControllerThread, pages: Pages) -> Page:
    """An empty tab, in which `load` opens the list of jobs as a signed-in user. A test can disturb the load."""
    return pages.new_tab(pages.new_context(controller.address, base_url=controller.address))


def load(page: Page, *, wait_until: Literal["commit", "load"] = "load") -> None:
    go_to(page, "/#/jobs", wait_until=wait_until)


def shows_jobs(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    expect(page.locator("#starting")).to_have_count(0)


def new_job_appears(page: Page, controller: ControllerThread) -> None:
    """Check that the streams of a tab are live."""
    with RemoteClusterClient(controller.address) as client:
        job_id = client.launch_job(pb.Controller.LaunchJobRequest(name=unique("live"), command=["true"]))
        expect(page.get_by_role("link", name=job_id)).to_be_visible()
        client.terminate_job(job_id)


def failing(times: int) -> Callable[[Route], None]:
    """Return a handler of requests that fails the first ones."""
    left = times

    def handle(route: Route) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            route.abort("connectionreset")
        else:
            route.continue_()

    return handle


@pytest.mark.parametrize("name", ["app.js", "app.css"])
def test_page_file_whose_request_fails_is_loaded_again(page: Page, name: str) -> None:
    page.route(re.compile(rf"/{re.escape(name)}(\?|$)"), failing(2))
    load(page)
    shows_jobs(page)
    expect(page.locator(".skip-link")).to_have_css("position", "absolute")  # because of the style sheet


@pytest.mark.parametrize("name", ["app.js", "app.css"])
def test_page_file_whose_request_hangs_is_requested_a_second_time(page: Page, name: str) -> None:
    page.route(re.compile(rf"/{re.escape(name)}$"), lambda route: None)
    page.clock.install()
    load(page, wait_until="commit")
    wait_until(lambda: page.evaluate("document.querySelectorAll('script').length") == 2, "the start")
    page.clock.run_for(9_000)
    if name == "app.js":
        expect(page.get_by_role("button", name="Load the page again")).to_be_visible()
        expect(page.locator("#starting")).to_contain_text("still loading")
    page.clock.run_for(12_000)
    shows_jobs(page)


def test_page_whose_start_program_fails_says_what_to_do(page: Page) -> None:
    page.route("**/start.js", lambda route: route.abort("connectionreset"))
    load(page)
    expect(page.get_by_text("If nothing else appears, load it again")).to_be_visible()


def test_page_program_that_throws_at_its_start_is_reported_on_the_page(page: Page, pages: Pages) -> None:
    page.route("**/app.js", lambda route: route.fulfill(content_type="text/javascript", body="throw new Error('odd')"))
    page.clock.install()
    load(page)
    reason = "The page could not start: Uncaught Error: odd."
    expect(page.locator("#starting")).to_contain_text(reason)
    page.clock.run_for(9_000)  # The page must not call the connection slow instead.
    expect(page.locator("#starting")).to_contain_text(reason)
    page.unroute("**/app.js")
    page.get_by_role("button", name="Load the page again").click()
    shows_jobs(page)
    assert pages.errors == ["exception: odd"]
    pages.errors.clear()


def test_call_of_the_page_that_is_never_answered_is_repeated(page: Page) -> None:
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route(re.compile("/DescribeCluster$"), hold_first)
    page.clock.install()
    load(page)
    shows_jobs(page)
    wait_until(lambda: page.evaluate("true") and held, "the first call")  # Playwright holds it during its calls only.
    sign_out = page.get_by_role("button", name="Sign out")
    expect(sign_out).not_to_be_visible()  # The page does not know yet who is signed in.
    page.clock.run_for(24_000)
    expect(sign_out).to_be_visible()


def test_page_whose_stream_always_breaks_after_its_first_message_asks_less_and_less_often(page: Page) -> None:
    message = pb.Controller.WatchJobsResponse().SerializeToString()
    envelope = b"\0" + len(message).to_bytes(4) + message
    asked = 0

    def break_after_one_message(route: Route) -> None:
        nonlocal asked
        asked += 1
        route.fulfill(content_type="application/connect+proto", body=envelope)

    page.add_init_script("delete window.SharedWorker")
    page.route("**/WatchJobs", break_after_one_message)
    page.clock.install()
    load(page)
    lost = page.get_by_text("The connection was lost")
    for _ in range(30):
        expect(lost).to_be_visible()
        page.clock.run_for(1_000)
    assert 4 < asked < 15
    page.unroute("**/WatchJobs")
    try_now(page)
    expect(lost).not_to_be_visible()


SILENT_WORKER = """
    window.SharedWorker = class {
        constructor() { this.port = new MessageChannel().port1; window.started = this; }
    };
"""
FAILING_WORKER = """
    window.SharedWorker = class {
        constructor() { this.port = new MessageChannel().port1; setTimeout(() => this.onerror(new Event('error'))); }
    };
"""


def test_shared_worker_that_never_answers_delays_the_page_by_seconds_only(
    page: Page, controller: ControllerThread
) -> None:
    page.add_init_script(SILENT_WORKER)
    page.clock.install()
    load(page)
    page.wait_for_function("window.started")
    page.clock.run_for(6_000)
    expect(page.get_by_text("There are no jobs yet").or_(page.get_by_role("table"))).to_be_visible()
    new_job_appears(page, controller)


def test_shared_worker_whose_program_fails_does_not_delay_the_page(page: Page, controller: ControllerThread) -> None:
    page.add_init_script(FAILING_WORKER)
    load(page)
    new_job_appears(page, controller)


def test_shared_worker_that_crashes_is_started_again(page: Page, controller: ControllerThread) -> None:
    page.clock.install()
    load(page)
    new_job_appears(page, controller)
    browser = page.context.browser
    assert browser is not None
    session = browser.new_browser_cdp_session()

    def workers() -> list[str]:
        found = session.send("Target.getTargets", {"filter": [{"type": "shared_worker", "exclude": False}]})
        return [target["targetId"] for target in found["targetInfos"] if controller.address in target["url"]]

    # The workers of closed tabs of earlier tests may still be ending.
    wait_until(lambda: len(workers()) == 1, "the worker of the page as the only one")
    (crashed,) = workers()
    session.send("Target.closeTarget", {"targetId": crashed})
    wait_until(lambda: crashed not in workers(), "the end of the worker")
    page.clock.run_for(36_000)  # The page asks the worker for an answer every 20 s, and waits 15 s for it.
    new_job_appears(page, controller)
    wait_until(lambda: len(workers()) == 1, "the new worker")
    session.detach()


def test_view_of_the_page_that_throws_leaves_the_navigation_usable(page: Page, pages: Pages) -> None:
    page.add_init_script("window.ResizeObserver = function () { throw new Error('odd'); }")
    load(page)
    page.get_by_role("link", name="Machines", exact=True).click()
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The program of the page has a fault here: odd")
    page.get_by_role("link", name="Cluster", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Cluster")
    assert set(pages.errors) == {"exception: odd"}
    pages.errors.clear()

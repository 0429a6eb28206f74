"""Looking inside running tasks on the page: the banner of a job that seems to hang, and the merged stacks."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from support.browser_pages import Pages, accessibility_problems, expect_to_fit
from support.cluster import shell, unique
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.client.server_process import LocalServer
from iris.rpc import cluster_pb2 as pb

# Task 1 waits for its data, and the other tasks wait for task 1. Task 1 has a child process that is no Python program.
GANG = """
import os, subprocess, threading, time

def all_reduce():
    print("up", flush=True)
    time.sleep(1000)

def next_batch(password):
    child = subprocess.Popen(["sleep", "1000"])
    print("up", flush=True)
    child.wait()

threading.Thread(target=threading.Event().wait, name="heartbeat-1", daemon=True).start()
next_batch("hunter2<b>") if os.environ["IRIS_TASK_INDEX"] == "1" else all_reduce()
"""


@pytest.fixture(scope="module")
def gang(shared_cluster: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A gang of three tasks that hangs."""
    program = tmp_path_factory.mktemp("gang") / "gang.py"
    program.write_text(GANG)
    with IrisClient.remote(shared_cluster.address) as client:
        job = client.run([sys.executable, str(program)], name=unique("gang"), replicas=3, watch_hang=1)
        wait_until(lambda: sum(len(client.fetch_task_logs(job.job_id, index)) for index in range(3)) == 3, "the tasks")
        # No process of the gang uses the CPU any more, so that each reading of the stacks has the same result.
        wait_until(lambda: job.status().hang.reason == pb.HANG_REASON_ALL_TASKS_IDLE, "the gang to seem to hang")
        yield job
        job.terminate()
        client.wait(job.job_id)


def route_of(job: Job, tab: str = "", query: str = "") -> str:
    return f"#/jobs/{job.job_id}{tab}{query}"


def words(page: Page) -> list[str]:
    """Return the merged stacks of the page, one line for each, without the paths of files."""
    return [" ".join(text.split()) for text in page.locator(".stack-group summary").all_inner_texts()]


def test_job_that_seems_to_hang_has_a_banner_with_the_code_and_a_link_to_the_stacks(
    shared_cluster: LocalServer, gang: Job, pages: Pages
) -> None:
    page = pages.open(shared_cluster.address, route_of(gang))
    banner = page.get_by_role("region", name="The job seems to hang")
    expect(banner.locator(".reason")).to_have_text("ALL_TASKS_IDLE")
    expect(banner).to_contain_text("No task has written output or used the CPU for the set time.")
    expect(banner).to_contain_text("all 3 running tasks have neither written output nor used the CPU for")
    expect(page.get_by_text("seems to hang: all")).to_have_count(1)  # The status does not repeat the banner.
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "hang-banner")
    banner.get_by_role("button", name="Task 1").click()
    expect(page.get_by_role("heading", name="Task 1", exact=True)).to_be_focused()
    banner.get_by_role("link", name="Stacks of all tasks").click()
    expect(page.locator(".stack-group").first).to_be_visible()


def test_banner_about_a_hang_disappears_when_the_job_ends(
    client: IrisClient, shared_cluster: LocalServer, pages: Pages
) -> None:
    job = client.run(shell("exec sleep 1000"), name=unique("hangs"), watch_hang=1)
    page = pages.open(shared_cluster.address, route_of(job))
    expect(page.get_by_role("region", name="The job seems to hang")).to_contain_text("Idle task:")
    job.terminate()
    expect(page.locator(".job-head + p")).to_contain_text("killed")
    expect(page.locator(".hang-banner")).to_have_count(0)


def test_page_merges_the_stacks_of_all_tasks_as_iris_stack_does(
    shared_cluster: LocalServer, client: IrisClient, gang: Job, pages: Pages
) -> None:
    page = pages.open(shared_cluster.address, route_of(gang, "/stacks"))
    expect(page.locator(".stack-section h2").first).to_contain_text("MainThread")
    summary = str(client.stacks(gang.job_id))
    expected = [" ".join(line.split()) for line in summary.splitlines() if line.startswith("  ")]
    assert len(expected) == 3
    assert words(page) == expected
    expect(page.locator(".unread")).to_have_text("Not Python: sleep (sleeping) in task 1")
    elsewhere = page.locator(".stack-group").filter(has_text="next_batch")
    elsewhere.locator("summary").click()
    expect(elsewhere.locator(".stack-frames")).to_contain_text(re.compile(r"next_batch /.*/gang\.py:\d+"))
    assert "hunter2" not in page.content()
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "stacks")
    page.set_viewport_size({"width": 390, "height": 800})
    expect_to_fit(page)
    page.set_viewport_size({"width": 1400, "height": 900})
    elsewhere.get_by_role("link", name="Task 1").click()
    page.locator(".task-panel").get_by_role("link", name="Stacks").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("task 1")
    expect(page.get_by_text("from 1 task.")).to_be_visible()
    assert len(words(page)) == 2


def test_page_reads_stacks_again_on_request_and_shows_variables_as_text(
    shared_cluster: LocalServer, gang: Job, pages: Pages
) -> None:
    page = pages.open(shared_cluster.address, route_of(gang, "/stacks", "?task=1"))
    expect(page.locator(".stack-group").first).to_be_visible()
    page.get_by_label("Local variables").check()
    expect(page.locator(".stack-variable").filter(has_text="password = ")).to_contain_text("hunter2<b>")
    with page.expect_response(re.compile("ReadStacks")):
        page.get_by_role("button", name="Read again").click()
    page.get_by_label("Local variables").uncheck()
    expect(page.locator(".stack-variable")).to_have_count(0)


def test_page_shows_why_the_stacks_of_a_task_cannot_be_read(
    client: IrisClient, shared_cluster: LocalServer, pages: Pages
) -> None:
    job = client.run(["true"], name=unique("ended"))
    client.wait(job.job_id)
    page = pages.open(shared_cluster.address, route_of(job, "/stacks"))
    expect(page.locator(".unread")).to_contain_text("Not read: task 0: ")
    page.route(re.compile("ReadStacks"), lambda route: route.abort())
    page.get_by_role("button", name="Read again").click()
    expect(page.get_by_role("alert")).to_contain_text("The controller cannot be reached.")
    expect(page.locator(".unread")).to_be_visible()


@pytest.mark.parametrize("role", ["reader", pytest.param("user", marks=pytest.mark.long)])
def test_only_the_owner_and_admins_see_the_stacks_of_a_job(
    shared_cluster: LocalServer, gang: Job, pages: Pages, role: str
) -> None:
    asked: list[str] = []
    page = pages.open(shared_cluster.address, route_of(gang, "", "?task=1"), secret=token(role, name="bob"))
    page.on("request", lambda request: asked.append(request.url))
    expect(page.locator(".task-panel")).to_be_visible()
    expect(page.locator(".hang-banner")).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("Stacks"))).to_have_count(0)
    page.goto(f"{page.url.partition('#')[0]}{route_of(gang, '/stacks')}")
    expect(page.get_by_text("You may not look inside this job")).to_be_visible()
    assert not [url for url in asked if "ReadStacks" in url or "inspect" in url]


def test_view_program_that_could_not_be_loaded_is_requested_again_with_the_try_again_button(
    shared_cluster: LocalServer, gang: Job, pages: Pages
) -> None:
    page = pages.open(shared_cluster.address, route_of(gang))
    failed: list[str] = []

    def fail(route, request) -> None:  # type: ignore[no-untyped-def]  # Playwright's types need imports
        failed.append(request.url)
        route.abort()

    page.clock.install()
    page.route(re.compile(r"inspect\.(js|css)"), fail)
    page.get_by_role("link", name="Stacks", exact=True).click()
    while not page.get_by_text("A part of the page cannot be loaded").is_visible():
        page.clock.run_for(1000)
    # The text appears after the last failure of one of the two files. The last try of the other file may come later.
    while len(failed) < 8:
        page.clock.run_for(1000)
    page.unroute(re.compile(r"inspect\.(js|css)"))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".stack-group").first).to_be_visible()


def test_view_program_of_another_release_asks_the_user_to_reload_the_page(
    shared_cluster: LocalServer, gang: Job, pages: Pages
) -> None:
    page = pages.open(shared_cluster.address, route_of(gang))
    body = "export const BUILD = 'other'; export const mountStacks = () => () => undefined;"
    page.route(re.compile(r"inspect\.js"), lambda route: route.fulfill(body=body, content_type="text/javascript"))
    page.get_by_role("link", name="Stacks", exact=True).click()
    expect(page.get_by_text("The cluster has another release of the page now")).to_be_visible()
    page.unroute(re.compile(r"inspect\.js"))
    page.get_by_role("button", name="Load the page again").click()
    expect(page.locator(".stack-group").first).to_be_visible()

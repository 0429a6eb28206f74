"""Profiles of running tasks on the page: the flame graph, its search and zoom, and the file for speedscope."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from support.browser_pages import Pages, accessibility_problems, expect_to_fit
from support.cluster import unique
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.client.server_process import LocalServer

# The functions use about a fifth of a core, because tests that run at the same time need the CPU.
BUSY = """
import time

def decode(until):
    while time.perf_counter() < until:
        sum(number * number for number in range(2000))

def step():
    decode(time.perf_counter() + 0.02)
    time.sleep(0.08)

print("up", flush=True)
while True:
    step()
"""


@pytest.fixture(scope="module")
def job(shared_cluster: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job of two tasks that use the CPU in the function `decode`."""
    program = tmp_path_factory.mktemp("busy") / "busy.py"
    program.write_text(BUSY)
    with IrisClient.remote(shared_cluster.address) as client:
        started = client.run([sys.executable, str(program)], name=unique("busy"), replicas=2)
        wait_until(lambda: all(client.fetch_task_logs(started.job_id, index) for index in range(2)), "the tasks")
        yield started
        started.terminate()
        client.wait(started.job_id)


def profile(page: Page, seconds: int) -> None:
    """Profile until all tasks have samples, and the graph has the function `decode`.

    A busy machine may give the tasks no CPU for a second.
    """
    page.get_by_label("Seconds").fill(str(seconds))

    def is_seen() -> bool:
        with page.expect_response(re.compile("SampleStacks")):
            page.get_by_role("button", name=re.compile("^Profile")).click()
        expect(page.get_by_role("progressbar")).to_have_count(0)
        return frame(page, "decode").count() > 0 and page.get_by_text("No samples of").count() == 0

    wait_until(is_seen, "samples of all tasks, and the function decode in the flame graph")


def summary(page: Page) -> Locator:
    """Return the line that says what was sampled."""
    return page.locator(".profile p").filter(has_text=re.compile(r"^[\d,]+ samples? of"))


def frame(page: Page, function: str) -> Locator:
    """Return the frames of a function in the flame graph."""
    return page.locator(".flame-frame").filter(has_text=re.compile(f"^{function}$"))


def test_profile_of_all_tasks_is_a_flame_graph_that_is_zoomed_and_searched(
    shared_cluster: LocalServer, job: Job, pages: Pages
) -> None:
    page = pages.open(shared_cluster.address, f"#/jobs/{job.job_id}")
    page.get_by_role("link", name="Profile", exact=True).click()
    expect(page.locator(".flame-graph")).to_have_count(0)  # Nothing is sampled before the user asks for it.
    profile(page, 2)
    expect(summary(page)).to_contain_text(re.compile(r"[\d,]+ samples of 2 tasks in 2 seconds\."))
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "profile")
    page.set_viewport_size({"width": 390, "height": 800})
    expect_to_fit(page)
    page.set_viewport_size({"width": 1400, "height": 900})
    said = page.locator(".flame-chosen")
    frame(page, "decode").first.click()
    expect(said).to_contain_text(re.compile(r"^decode /.*/busy\.py:\d+: [\d.]+ % of the samples \([\d,]+\)"))
    assert frame(page, "decode").first.evaluate("element => element.style.width") == "100%"
    page.get_by_role("button", name="Show all").click()
    expect(page.get_by_role("button", name="Show all")).to_be_disabled()
    page.get_by_label("Search").fill("DECODE")
    expect(page.get_by_text(re.compile(r"% of the samples \([\d,]+\) match$"))).to_be_visible()
    assert page.locator(".flame-is-found").count() >= 1
    page.get_by_text("Functions as a table").click()
    expect(page.locator(".profile-functions tbody")).to_contain_text("decode")


def test_flame_graph_is_operated_with_the_keyboard(shared_cluster: LocalServer, job: Job, pages: Pages) -> None:
    page = pages.open(shared_cluster.address, f"#/jobs/{job.job_id}?task=1")
    page.locator(".task-panel").get_by_role("link", name="Profile").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("task 1")
    profile(page, 1)
    page.locator(".flame-graph").focus()
    said = page.locator(".flame-chosen")
    expect(said).to_contain_text("All: ")
    page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("<module>")
    page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("step")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Show all")).to_be_enabled()
    page.keyboard.press("ArrowUp")
    expect(said).to_contain_text("<module>")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show all")).to_be_disabled()
    expect(said).to_contain_text("All: ")


def test_profile_is_downloaded_for_speedscope(
    shared_cluster: LocalServer, job: Job, pages: Pages, tmp_path: Path
) -> None:
    page = pages.open(shared_cluster.address, f"#/jobs/{job.job_id}/profile")
    profile(page, 1)
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download for speedscope").click()
    assert downloading.value.suggested_filename == f"{job.job_id}.speedscope.json"
    downloading.value.save_as(tmp_path / "profile.json")
    document = json.loads((tmp_path / "profile.json").read_text())
    frames = document["shared"]["frames"]
    assert "decode" in {one["name"] for one in frames}
    (sampled,) = document["profiles"]
    assert len(sampled["samples"]) == len(sampled["weights"]) > 0
    assert max(position for stack in sampled["samples"] for position in stack) < len(frames)


def test_profile_is_stopped_early_and_keeps_its_samples(shared_cluster: LocalServer, job: Job, pages: Pages) -> None:
    page = pages.open(shared_cluster.address, f"#/jobs/{job.job_id}/profile")
    page.get_by_label("Seconds").fill("0")
    expect(page.get_by_text("Seconds must be a whole number from 1 to 3,600, got 0.")).to_be_visible()
    page.get_by_label("Seconds").fill("600")
    page.get_by_label("Waiting threads").check()
    page.get_by_role("button", name="Profile", exact=True).click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator(".profile-progress")).to_contain_text(re.compile(r"[1-9]\d* of 600 s"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".flame-graph")).to_be_visible()
    expect(summary(page)).to_contain_text(re.compile(r"samples of 2 tasks in \d+ seconds"))


def test_view_of_a_profile_shows_why_a_task_has_no_samples(
    client: IrisClient, shared_cluster: LocalServer, pages: Pages
) -> None:
    ended = client.run(["true"], name=unique("ended"))
    client.wait(ended.job_id)
    page = pages.open(shared_cluster.address, f"#/jobs/{ended.job_id}/profile")
    page.get_by_role("button", name="Profile", exact=True).click()
    expect(page.get_by_text("No samples of task 0: ")).to_be_visible()
    expect(summary(page)).to_contain_text("0 samples of 0 tasks in 0 seconds.")
    page.route(re.compile("SampleStacks"), lambda route: route.abort())
    page.get_by_role("button", name="Profile again").click()
    expect(page.get_by_role("alert")).to_contain_text("The controller cannot be reached.")


def test_user_with_the_role_reader_cannot_profile_a_job(shared_cluster: LocalServer, job: Job, pages: Pages) -> None:
    page = pages.open(shared_cluster.address, f"#/jobs/{job.job_id}/profile", secret=token("reader", name="bob"))
    expect(page.get_by_text("Only the owner of a job (tests) and admins can profile its tasks.")).to_be_visible()
    expect(page.get_by_role("button", name="Profile")).to_have_count(0)

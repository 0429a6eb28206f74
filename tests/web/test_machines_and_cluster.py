"""The views of the machines and of the cluster, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from support.browser_pages import Pages, accessibility_problems, expect_to_fit, reload
from support.cluster import launch, running_cluster, shell, unique, wait_for_end, wait_for_state
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.rpc import cluster_pb2 as pb

PHONE = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster whose page the tests open."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: LocalServer) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(server.address) as client:
        wait_until(lambda: len(client.list_workers()) == 2, "the workers")
        yield client


def test_page_of_the_machines_shows_jobs_queue_and_use_live(
    server: LocalServer, cluster: RemoteClusterClient, pages: Pages
) -> None:
    page = pages.open(server.address, "#/machines")
    expect(page.get_by_text("Nothing waits for machines.")).to_be_visible()
    (first, *_) = machines = list(cluster.list_machines().machines)
    running = launch(cluster, ["sleep", "600"], name=unique("holder"), resources={"cpu": 1})
    wait_for_state(cluster, running, pb.JOB_STATE_RUNNING)
    table = page.get_by_role("table", name="Machines", exact=True)
    expect(table.get_by_role("link", name=running)).to_be_visible()
    count = len(machines)
    waiting = launch(cluster, shell("true"), count, name=unique("patient"), resources={"cpu": first.total.cpu})
    queue = page.get_by_role("table", name="Gangs that wait for machines")
    row = queue.get_by_role("row", name=waiting)
    expect(row).to_contain_text(f"{count} \N{MULTIPLICATION SIGN} {first.total.cpu} core")
    expect(row).to_contain_text("free")
    holder = next(
        one.name for one in cluster.list_machines().machines if running in [holding.job_id for holding in one.holdings]
    )
    table.get_by_role("button", name=holder, exact=True).click()
    details = page.get_by_role("region", name=f"Machine {holder}")
    expect(details).to_contain_text("1 core of")
    expect(details).to_contain_text("used")
    expect(details.get_by_role("img", name="CPU over time")).to_be_visible(timeout=60_000)
    page.get_by_text("Use of all machines over time").click()
    expect(page.get_by_role("img", name="Memory over time")).to_have_count(2, timeout=60_000)
    expect(page).to_have_url(re.compile(re.escape(f"machine={holder}")))
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "machines")
    page.set_viewport_size(PHONE)
    expect_to_fit(page)
    assert accessibility_problems(page) == []
    page.get_by_role("searchbox").fill("no machine")
    expect(table.get_by_role("button")).to_have_count(0)
    page.get_by_role("searchbox").fill(running)
    expect(table.get_by_role("button")).to_have_count(1)
    for job_id in (waiting, running):
        cluster.terminate_job(job_id)
        wait_for_end(cluster, job_id)
    expect(page.get_by_text("Nothing waits for machines.")).to_be_visible()


def test_queue_has_one_row_for_the_waiting_tasks_of_a_job(
    server: LocalServer, cluster: RemoteClusterClient, pages: Pages
) -> None:
    first, *others = cluster.list_machines().machines
    cores = {"cpu": first.total.cpu}
    many = launch(cluster, ["sleep", "600"], 25, name=unique("many"), resources=cores, independent_tasks=True)
    waiting = 25 - 1 - len(others)
    page = pages.open(server.address, "#/machines")
    queue = page.get_by_role("table", name="Gangs that wait for machines")
    rows = queue.locator("tbody tr")
    expect(queue.get_by_role("row", name=many)).to_contain_text(f"{many} {waiting} tasks")
    expect(rows).to_have_count(1)
    more = [launch(cluster, shell("true"), name=unique("more"), resources=cores) for _ in range(11)]
    expect(rows).to_have_count(10)
    page.get_by_role("button", name="Show all 12 rows").click()
    expect(rows).to_have_count(12)
    for job_id in (many, *more):
        cluster.terminate_job(job_id)
        wait_for_end(cluster, job_id)


def test_page_of_the_machines_says_that_it_counts_gangs_and_which_tasks_are_not_in_the_queue(
    server: LocalServer, cluster: RemoteClusterClient, pages: Pages
) -> None:
    first, *others = cluster.list_machines().machines
    parallel = 1 + len(others) + 2
    job_id = launch(
        cluster,
        ["sleep", "600"],
        25,
        name=unique("limited"),
        resources={"cpu": first.total.cpu},
        independent_tasks=True,
        max_parallel=parallel,
    )
    page = pages.open(server.address, "#/machines")
    expect(page.get_by_role("heading", name="Waiting 2 gangs")).to_be_visible()
    expect(page.get_by_text("--max-parallel")).to_have_text(
        "Each independent task is a gang. Tasks that wait because of --max-parallel, --after or a retry pause are not"
        " counted, because they are not in the queue yet."
    )
    assert accessibility_problems(page) == []
    page.set_viewport_size(PHONE)
    expect_to_fit(page)
    cluster.terminate_job(job_id)
    wait_for_end(cluster, job_id)
    expect(page.get_by_role("heading", name="Waiting 0 gangs")).to_be_visible()


def test_page_of_the_cluster_shows_the_controller_the_leases_and_the_events(
    server: LocalServer, cluster: RemoteClusterClient, pages: Pages
) -> None:
    page = pages.open(server.address, "#/cluster")
    expect(page.get_by_text(cluster.describe_cluster().version, exact=True)).to_be_visible()
    expect(page.get_by_text("free; the database has")).to_be_visible()
    workers = page.get_by_role("table", name="Workers and their leases")
    expect(workers.get_by_role("row")).to_have_count(3)
    expect(workers.get_by_text("held")).to_have_count(2)
    hostile = "<img src=x onerror=alert(1)>"
    job_id = launch(cluster, shell(f"echo '{hostile}'; exit 3"), name=unique("<b>bold</b>").replace("/", "_"))
    wait_for_end(cluster, job_id)
    page.get_by_label("Filter events by name or field").fill(job_id)
    events = page.get_by_role("table", name="Recent events of the controller, the newest first")
    expect(events.get_by_text("job.failed").first).to_be_visible()
    expect(events.get_by_role("link", name=job_id).first).to_be_visible()
    assert page.locator("main b, main img").count() == 0
    page.get_by_label("Filter events by name or field").fill("")
    pages.take_screenshots(page, "cluster")
    assert accessibility_problems(page) == []
    page.get_by_label("only warnings and errors").check()
    expect(page).to_have_url(re.compile("problems=1"))
    page.get_by_label("only warnings and errors").uncheck()
    page.set_viewport_size(PHONE)
    expect_to_fit(page)
    assert accessibility_problems(page) == []
    borders = """row => [row, ...row.cells].filter(one => getComputedStyle(one).borderBottomStyle !== "none").length"""
    assert set(events.locator("tbody tr").evaluate_all(f"rows => rows.map({borders})")) == {1}, "one line below a row"


def test_admin_creates_and_revokes_a_token_that_is_shown_once(
    server: LocalServer, cluster: RemoteClusterClient, pages: Pages
) -> None:
    page = pages.open(server.address, "#/cluster")
    name = unique("bob")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Role").select_option("user")
    page.get_by_label("Valid for").select_option("1 day")
    page.get_by_role("button", name="Create token").click()
    shown = page.locator(".new-token code")
    expect(shown).to_be_visible()
    secret = shown.text_content() or ""
    with RemoteClusterClient(server.address, token=secret) as bob:
        known = bob.describe_cluster().caller
    assert (known.name, known.role) == (name, "user")
    (listed,) = [one for one in cluster.list_tokens() if one.name == name]
    assert listed.expires_at_ms - listed.created_at_ms == 86_400_000
    assert accessibility_problems(page) == []
    assert secret not in page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    reload(page)
    revoke = page.get_by_role("button", name=f"Revoke the token of {name}")
    expect(revoke).to_be_visible()
    assert secret not in page.content()
    revoke.click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    revoke.click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke token").click()
    expect(revoke).to_have_count(0)
    (listed,) = [one for one in cluster.list_tokens() if one.name == name]
    assert listed.revoked_at_ms


@pytest.mark.parametrize("role", ["user", pytest.param("reader", marks=pytest.mark.long)])
def test_tokens_are_shown_only_to_admins(server: LocalServer, pages: Pages, role: str) -> None:
    page = pages.open(server.address, "#/cluster", secret=token(role, name="ana"))
    expect(page.get_by_role("table", name="Workers and their leases")).to_be_visible()
    expect(page.get_by_text(f"with the role {role}")).to_be_visible()
    expect(page.get_by_role("heading", name="Tokens")).to_have_count(0)
    expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)

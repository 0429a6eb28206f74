"""The view of one job: its states, timeline, tasks, failures, usage, child jobs and buttons, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect
from support.browser_pages import Pages, accessibility_problems, reload
from support.cluster import running_cluster, shell, unique, wait_for_end, wait_for_state
from support.stored_jobs import store_long_job, store_short_job
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer
from iris.rpc import cluster_pb2 as pb

MANY, MOST = 1000, 10_000
HOSTILE = "<script>document.title=1</script><img src=x onerror=alert(1)>"
# An override of the direction of text, and the colours of a terminal.
BIDI = "abc\u202efdp.exe"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster with jobs of very many tasks that have ended."""
    directory = tmp_path_factory.mktemp("jobs")
    store_long_job(directory / "controller.db", {"many": MANY, "most": MOST})
    store_short_job(directory / "controller.db", "short", 150)
    with running_cluster(directory, workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LocalServer) -> Iterator[IrisClient]:
    with IrisClient.remote(server.address) as client:
        yield client


def address_of(job_id: str, query: str = "") -> str:
    return f"#/jobs/{job_id.replace('/', '%2F')}{query}"


def canvas_colours(page: Page, selector: str) -> int:
    """Return the number of different colours of a canvas. An empty canvas has one, and a missing canvas has none."""
    script = """selector => {
        const canvas = document.querySelector(selector);
        if (!canvas) return 0;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(pixels.data.buffer)).size;
    }"""
    return int(page.evaluate(script, selector))


def test_page_of_a_running_gang_shows_changes_at_once(server: LocalServer, client: IrisClient, pages: Pages) -> None:
    job = client.run(
        shell("echo starting; exec sleep 600"), name=unique("gang"), replicas=2, env={"SECRET_KEY": "do-not-show"}
    )
    page = pages.open(server.address, address_of(job.job_id))
    head = page.locator(".job-head + p")
    expect(head).to_contain_text("running")
    expect(page.locator(".facts")).to_contain_text("SECRET_KEY")
    expect(page.locator(".facts")).to_contain_text("2, a gang")
    assert "do-not-show" not in page.content()
    expect(page.locator(".state-counts")).to_contain_text("2 running")
    wait_until(lambda: canvas_colours(page, ".timeline canvas") > 3, "the drawing of the timeline")
    wait_until(lambda: canvas_colours(page, ".task-grid canvas") > 1, "the drawing of the grid")
    page.locator(".task-grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".task-grid + p")).to_contain_text("Task 1, running")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Task 1", exact=True)).to_be_focused()
    expect(page.locator(".last-lines")).to_contain_text("starting")
    expect(page).to_have_url(re.compile(r"\?task=1$"))
    wait_until(lambda: len(client.usage(job.job_id).times_ms) > 1, "measurements")
    client.terminate(job.job_id)
    expect(head).to_contain_text("killed")
    expect(page.locator(".plot canvas")).to_have_count(4)  # CPU and memory, of the job and of task 1
    expect(page.get_by_role("img", name=re.compile("CPU over time: last .* core"))).to_have_count(2)
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "job-running")


def test_page_of_a_job_with_one_task_shows_the_last_lines_and_the_submission(
    server: LocalServer, client: IrisClient, pages: Pages
) -> None:
    job = client.run(
        shell("echo ready; exec sleep 600"),
        name=unique("single"),
        coscheduled=False,
        ports=["http"],
        max_retries_failure=2,
        retry_on=[75],
    )
    wait_for_state(client.cluster, job.job_id, pb.JOB_STATE_RUNNING)
    page = pages.open(server.address, address_of(job.job_id))
    lines = page.locator(".last-lines")
    expect(lines).to_contain_text("ready")
    facts = page.locator(".facts")
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    expect(page.get_by_role("button", name="Submit a copy")).to_be_visible()
    for text in (
        "1 core, the default of independent tasks",
        "Portshttp",
        "retries only after exit code 75",
    ):
        expect(facts).to_contain_text(text)
    # The panel of the task replaces the lines.
    page.locator(".task-grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    panel = page.locator(".task-panel")
    expect(panel.locator(".last-lines")).to_be_visible()
    task = client.task_status(job.job_id, 0)
    address = f"{urlsplit(task.worker_address).hostname}:{task.ports['http']}"
    expect(panel.locator(".task-ports")).to_contain_text(f"http {address}")
    expect(panel.locator(".command code")).to_have_text(f"iris forward {job.job_id}/task-0 http")
    expect(panel.get_by_role("button", name="Copy the command")).to_be_visible()
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "job-ports")
    expect(lines).to_have_count(1)
    page.get_by_role("button", name="End job").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Its task has not ended.")
    dialog.get_by_role("button", name="End job").click()
    expect(page.locator(".job-head + p")).to_contain_text("killed")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    expect(panel.locator(".task-ports")).to_have_count(0)
    page.get_by_role("link", name="Log", exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Logs of {job.job_id}")


def test_stacks_are_offered_only_while_a_task_runs(server: LocalServer, client: IrisClient, pages: Pages) -> None:
    first = client.run(["sleep", "600"], name=unique("first"))
    second = client.run(["sleep", "600"], name=unique("second"), after=[first.job_id], placement="spread")
    page = pages.open(server.address, address_of(second.job_id))
    expect(page.locator(".job-head + p")).to_contain_text("pending")
    stacks = page.get_by_role("link", name="Stacks")
    expect(stacks).to_have_count(0)
    expect(page.locator(".facts")).to_contain_text("each task on a machine of its own")
    wait_for_state(client.cluster, first.job_id, pb.JOB_STATE_RUNNING)
    page.goto(f"{server.address}/{address_of(first.job_id)}")
    expect(stacks).to_be_visible()
    for job in (second, first):
        job.terminate()
        client.wait(job.job_id)


def test_low_rows_of_the_timeline_have_numbers(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, address_of("many"))
    page.locator(".timeline-scroller").focus()
    numbers = """() => {
        const canvas = document.querySelector('.timeline canvas');
        const ratio = canvas.width / canvas.clientWidth;
        const [left, top, width, height] = [2, 30, 44, 380].map(value => Math.round(value * ratio));
        const pixels = canvas.getContext('2d').getImageData(left, top, width, height);
        return new Set(new Uint32Array(pixels.data.buffer)).size > 1;
    }"""
    page.wait_for_function(numbers)


def test_timeline_of_a_job_shorter_than_a_second_has_labels_of_the_time(server: LocalServer, pages: Pages) -> None:
    context = pages.new_context(server.address)
    context.add_init_script(
        """{
            globalThis.texts = new Set();
            const draw = CanvasRenderingContext2D.prototype.fillText;
            CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
                texts.add(text);
                draw.call(this, text, ...place);
            };
        }"""
    )
    page = pages.open_tab(context, server.address, address_of("short"))
    page.wait_for_function("() => texts.has('+20ms')")
    labels = [text for text in page.evaluate("() => [...texts]") if text.startswith("+")]
    assert len(labels) > 5


def test_failed_job_shows_the_first_failure_with_its_reason_and_last_lines(
    server: LocalServer, client: IrisClient, pages: Pages
) -> None:
    script = "echo before; echo wrong >&2; if [ $IRIS_TASK_INDEX = 2 ]; then exit 3; fi; sleep 600"
    job = client.run(shell(script), name=unique("fails"), replicas=3, max_retries_failure=1, retry_pause=0)
    client.wait(job.job_id)
    page = pages.open(server.address, address_of(job.job_id))
    first = page.locator(".failures > li").first
    expect(first).to_contain_text("Task 2")
    expect(first).to_contain_text("exit code 3")
    expect(first.locator(".reason")).to_have_text("EXIT_CODE")
    expect(first).to_contain_text("2 attempts")
    expect(first.locator(".error-text")).to_have_count(0)  # It would only repeat the exit code.
    expect(first.locator(".last-lines")).to_contain_text("wrong")
    first.get_by_role("button", name="Task 2").click()
    rows = page.locator(".task-panel .plain-table tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("exit code 3")
    page.get_by_text("Attempts as a table").click()
    table = page.locator(".attempt-table tbody tr")
    expect(table).to_have_count(6)
    expect(table.nth(5)).to_contain_text("failed")
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "job-failed")


def test_timeline_of_a_job_can_be_used_with_the_keyboard(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, address_of("many"))
    timeline = page.locator(".timeline-scroller")
    timeline.focus()
    page.keyboard.press("End")
    said = page.locator(".timeline + .chosen-row")
    expect(said).to_contain_text(f"Task {MANY - 1}")
    expect(said).to_contain_text("attempt 0: queued for")
    assert timeline.evaluate("element => element.scrollTop") > 0
    page.keyboard.press("Home")
    expect(said).to_contain_text("Task 0")
    assert timeline.evaluate("element => element.scrollTop") == 0
    whole = page.get_by_role("button", name="Whole time")
    expect(whole).to_be_disabled()
    page.keyboard.press("+")
    expect(whole).to_be_enabled()
    page.keyboard.press("0")
    expect(whole).to_be_disabled()
    page.get_by_label("Order").select_option("state")
    page.keyboard.press("Tab")
    timeline.focus()
    page.keyboard.press("Home")
    expect(said).to_contain_text("failed")
    page.keyboard.press("Enter")
    expect(page.locator(".task-panel")).to_contain_text("EXIT_CODE")


def test_view_of_a_job_with_a_thousand_tasks_is_smooth(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, address_of("many"))
    expect(page.locator("#tasks-title")).to_contain_text("1,000")
    wait_until(lambda: canvas_colours(page, ".timeline canvas") > 5, "the drawing of the timeline")
    wait_until(lambda: canvas_colours(page, ".task-grid canvas") > 3, "the drawing of the grid")
    assert page.locator("*").count() < 600, "tasks must not be elements of their own"

    def has_tip() -> bool:
        # Parts of the page that are drawn later, for example the plots of the usage, move the timeline.
        page.mouse.move(*_middle(page, ".timeline canvas"))
        return page.locator(".timeline-tip").filter(has_text="attempt 0: running for").is_visible()

    wait_until(has_tip, "the times of a task at the mouse")
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "job-many")


def test_view_of_a_job_with_ten_thousand_tasks_opens(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, address_of("most", f"?task={MOST - 1}"))
    expect(page.locator("#tasks-title")).to_contain_text("10,000")
    expect(page.locator(".task-panel")).to_contain_text(f"Task {MOST - 1}")
    wait_until(lambda: canvas_colours(page, ".task-grid canvas") > 3, "the drawing of the grid")


@pytest.mark.timeout(240)  # Three programs in a row import Iris, which takes a loaded machine more than a minute.
def test_page_shows_the_child_jobs_of_a_job_as_a_live_tree(
    server: LocalServer, client: IrisClient, pages: Pages
) -> None:
    child = "from iris.client import IrisClient; c = IrisClient.remote(); "
    inner = f"{child}c.run(['true'], name='leaf').wait()"
    middle = f"import sys, time; {child}c.run([sys.executable, '-c', sys.argv[1]], name='middle').wait()"
    outer = f"{middle}; time.sleep(600)"
    job = client.run(["python3", "-c", outer, inner], name=unique("tree"))
    page = pages.open(server.address, address_of(job.job_id))
    tree = page.locator(".job-tree .job-tree")
    expect(tree).to_contain_text("leaf", timeout=150_000)
    expect(tree).to_contain_text("succeeded")
    page.get_by_role("link", name="middle").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("middle")
    page.get_by_role("heading", level=1).get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(job.job_id)
    client.terminate(job.job_id)
    client.wait(job.job_id)
    reload(page)
    expect(page.locator(".job-tree .job-tree")).to_contain_text("leaf")


def test_endpoints_of_a_running_job_are_listed(server: LocalServer, client: IrisClient, pages: Pages) -> None:
    job = client.run(["sleep", "600"], name=unique("serves"))
    wait_for_state(client.cluster, job.job_id, pb.JOB_STATE_RUNNING)
    name = unique("endpoint")
    client.cluster.register_endpoint(name, "127.0.0.1:4321", job.job_id)
    other = client.cluster.register_endpoint(unique("other"), "127.0.0.1:1")
    page = pages.open(server.address, address_of(job.job_id))
    expect(page.locator(".endpoints")).to_contain_text("127.0.0.1:4321")
    expect(page.locator(".endpoints li")).to_have_count(1)
    client.unregister_endpoint(other)
    client.terminate(job.job_id)
    wait_for_end(client.cluster, job.job_id)


def test_buttons_of_the_page_end_retry_and_remove_a_job_after_a_confirmation(
    server: LocalServer, client: IrisClient, pages: Pages
) -> None:
    job = client.run(["sleep", "600"], name=unique("ends"), replicas=2, coscheduled=False, max_task_failures=2)
    wait_for_state(client.cluster, job.job_id, pb.JOB_STATE_RUNNING)
    page = pages.open(server.address, address_of(job.job_id, "?task=0"))
    page.get_by_role("button", name="End task").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="End task")).to_be_focused()
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="End task")).to_be_focused()
    page.get_by_role("button", name="End task").click()
    dialog.get_by_role("button", name="End task").click()
    expect(page.locator(".task-panel")).to_contain_text("killed")
    expect(page.get_by_role("button", name="End task")).to_be_hidden()
    page.get_by_role("button", name="End job").click()
    expect(dialog).to_contain_text("of 2 tasks have not ended")
    assert accessibility_problems(page) == []
    dialog.get_by_role("button", name="End job").click()
    expect(page.locator(".job-head + p")).to_contain_text("killed")
    page.get_by_role("button", name="Retry").click()
    dialog.get_by_role("button", name="Submit again").click()
    title = page.get_by_role("heading", level=1)
    expect(title).not_to_have_text(job.job_id)
    again = title.text_content() or ""
    client.terminate(again)
    page.get_by_role("button", name="Forget").click()
    dialog.get_by_role("button", name="Forget").click()
    expect(title).to_have_text("Jobs")
    assert [known.job_id for known in client.list_jobs(id_prefix=again)] == []
    assert client.status(job.job_id).state == pb.JOB_STATE_KILLED


def test_page_retries_only_the_failed_tasks_of_a_job(server: LocalServer, client: IrisClient, pages: Pages) -> None:
    script = 'echo "task $IRIS_TASK_INDEX of $IRIS_NUM_TASKS"; exit $((IRIS_TASK_INDEX == 1 ? 3 : 0))'
    job = client.run(shell(script), name=unique("partly"), replicas=3, coscheduled=False, max_task_failures=3)
    client.wait(job.job_id)
    page = pages.open(server.address, address_of(job.job_id))
    page.get_by_role("button", name="Retry failed tasks").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("runs the task that has not succeeded")
    dialog.get_by_role("button", name="Submit again").click()
    title = page.get_by_role("heading", level=1)
    expect(title).not_to_have_text(job.job_id)
    again = client.wait(title.text_content() or "")
    assert again.num_tasks == 1
    assert [entry.message for entry in client.fetch_task_logs(again.job_id, task_index=0)] == ["task 1 of 3"]


def test_job_view_of_a_reader_has_no_buttons(server: LocalServer, client: IrisClient, pages: Pages) -> None:
    job = client.run(["sleep", "600"], name=unique("read"))
    page = pages.open(server.address, address_of(job.job_id, "?task=0"), secret=token("reader"))
    expect(page.locator(".job-head + p")).to_contain_text("running")
    expect(page.locator(".task-panel")).to_be_visible()
    for name in ("End job", "End task", "Retry", "Forget"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    client.terminate(job.job_id)
    client.wait(job.job_id)


def test_hostile_texts_of_a_job_are_shown_as_text(server: LocalServer, client: IrisClient, pages: Pages) -> None:
    script = f"printf '\\033[31m{HOSTILE}\\033[0m {BIDI}\\n' >&2; exit 1"
    job = client.run(["sh", "-c", script, HOSTILE, BIDI], name=unique("hostile"), env={"NAME": HOSTILE})
    client.wait(job.job_id)
    page = pages.open(server.address, address_of(job.job_id, "?task=0"))
    lines = page.locator(".failures .last-lines")
    expect(lines).to_contain_text(f"{HOSTILE} abc\\u202efdp.exe")
    expect(page.locator(".facts .command")).to_contain_text("\\u202efdp.exe")
    expect(page.locator(".facts .command")).to_contain_text("<script>")
    assert "\u202e" not in page.locator("main").inner_text()
    assert page.locator("main script, main img").count() == 0
    assert page.title().startswith(job.job_id)


def test_page_explains_that_a_job_is_unknown(server: LocalServer, pages: Pages) -> None:
    page = pages.open(server.address, "#/jobs/no-such-job")
    expect(page.get_by_role("heading", name="There is no such job")).to_be_visible()
    expect(page.locator("main")).to_contain_text("no job named 'no-such-job'")


def _middle(page: Page, selector: str) -> tuple[float, float]:
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + 52 + (box["width"] - 52) * 0.3, box["y"] + 60

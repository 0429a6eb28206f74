"""The log view of the page, in a browser, with logs of real tasks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from support.browser_pages import HeldRequests, Pages, accessibility_problems, go_to, reload
from support.cluster import launch, shell, wait_for_end, wait_for_state
from support.log_writer import Writing
from support.standing_cluster import StandingCluster
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2 as pb

LARGE_LINES = 1_000_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """A cluster whose controller a test can kill."""
    started = StandingCluster(tmp_path_factory.mktemp("logs") / "state")
    try:
        yield started
    finally:
        # The driver of the browser runs an event loop in this thread, so the cluster is stopped in another thread.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(started.stop).result()


@pytest.fixture
def client(cluster: StandingCluster) -> Iterator[RemoteClusterClient]:
    with cluster.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def large_job(cluster: StandingCluster) -> str:
    """A job with a log of about 50 MB."""
    with cluster.client() as client:
        job_id = launch(client, shell(f"seq -f 'line %.0f of a large log, with some more words' 1 {LARGE_LINES}"))
        wait_for_end(client, job_id)
    return job_id


class LogPage:
    """The log view of a job in a tab."""

    def __init__(self, pages: Pages, cluster: StandingCluster, job_id: str, query: str = "", **options: object) -> None:
        self.page: Page = pages.open(cluster.address, f"#/jobs/{job_id}/logs{query}", **options)
        self.rows = self.page.get_by_role("log")

    def lines(self) -> list[str]:
        """Return the texts of the drawn lines, without gaps and the rows between attempts."""
        texts: list[str] = self.page.locator(".log-row:not(.log-separator, .log-gap) .log-text").all_text_contents()
        return texts

    def line(self, text: str) -> Locator:
        """Return the row of the line with exactly this text."""
        return self.page.locator(".log-row").filter(
            has=self.page.locator(".log-text", has_text=re.compile(f"^{re.escape(text)}$"))
        )

    def press(self, key: str) -> None:
        self.rows.press(key)

    def scroll_up(self, pixels: int = 600) -> None:
        self.rows.hover()
        self.page.mouse.wheel(0, -pixels)


def test_log_view_says_why_a_task_never_started(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages
) -> None:
    job_id = launch(client, ["true"], resources={"cpu": 10_000})
    wait_for_end(client, job_id)
    log = LogPage(pages, cluster, job_id)
    expect(log.page.locator(".log-notice")).to_contain_text("Task 0 never started: it can never be placed")
    log.page.set_viewport_size({"width": 390, "height": 800})
    expect(log.page.get_by_text("The tasks have written nothing; every task has ended.")).to_be_visible()
    assert accessibility_problems(log.page) == []


def test_log_view_says_that_no_line_matches_a_filter(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages
) -> None:
    job_id = launch(client, ["echo", "hello"])
    wait_for_end(client, job_id)
    log = LogPage(pages, cluster, job_id, "?grep=unknown")
    expect(log.page.get_by_text("No line matches the filter; every task has ended.")).to_be_visible()
    log.page.get_by_label("Only lines with").fill("hel")
    expect(log.page.get_by_text("This is the whole log, filtered; every task has ended.")).to_be_visible()


def test_filtered_log_of_many_tasks_shows_attempts_only_of_matching_and_failed_tasks(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    script = f"""
    [ $IRIS_TASK_INDEX != 2 ] || echo "needle of $IRIS_TASK_INDEX"
    [ $IRIS_TASK_INDEX != 5 ] || exit 3
    [ $IRIS_TASK_INDEX != 7 ] || {{ while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done; echo "needle of 7"; }}
    echo hay
    """
    job_id = launch(client, shell(script), 8, independent_tasks=True, max_task_failures=1)
    log = LogPage(pages, cluster, job_id, "?grep=needle")
    separators = log.page.locator(".log-separator")
    # Task 7 still runs, and shows nothing. The other tasks have ended.
    wait_until(lambda: client.get_job_status(job_id).tasks_succeeded == 6, "the end of the other tasks")
    expect(separators.filter(has_text="Task 5, attempt 0 failed with exit code 3")).to_have_count(1)
    expect(separators.filter(has_text="Task 2,")).to_have_count(2)
    expect(separators).to_have_count(3)
    assert log.lines() == ["needle of 2"]
    (tmp_path / "gate").touch()
    wait_for_end(client, job_id)
    expect(log.page.get_by_text("This is the whole log, filtered; every task has ended.")).to_be_visible()
    expect(separators.filter(has_text="Task 2,")).to_have_count(2)
    expect(separators.filter(has_text="Task 5, attempt 0 failed with exit code 3")).to_have_count(1)
    expect(separators.filter(has_text="Task 7,")).to_have_count(2)
    expect(separators).to_have_count(5)
    rows = log.page.locator(".log-row")
    for index in range(7):
        log.press("j")
        expect(rows.nth(index)).to_have_class(re.compile("log-row-selected"))
    expect(rows).to_have_count(7)
    expect(rows.last).to_contain_text("Task 7, attempt 0 succeeded")
    assert accessibility_problems(log.page) == []
    log.page.get_by_label("Only lines with").fill("")
    expect(separators).to_have_count(16)
    log.page.get_by_label("Tasks").fill("0")
    log.page.get_by_label("Only lines with").fill("needle")
    log.page.keyboard.press("Enter")
    expect(separators).to_have_count(2)  # One task alone says how its attempts ended.


def test_log_view_shows_a_retry_and_how_each_attempt_ended(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = f"""
    echo "attempt $IRIS_ATTEMPT_ID begins"
    [ $IRIS_ATTEMPT_ID = 1 ] || exit 3
    printf 'no newline yet'
    while [ ! -e {gate} ]; do sleep 0.02; done
    printf ', but now\\nlast\\n' >&1
    """
    job_id = launch(client, shell(script), max_retries_failure=1)
    log = LogPage(pages, cluster, job_id)
    expect(log.line("attempt 1 begins")).to_be_visible()
    expect(log.line("no newline yet")).to_be_visible()
    expect(log.page.locator(".log-end")).to_contain_text("Attempt 0 failed with exit code 3")
    gate.touch()
    expect(log.page.locator(".log-end").last).to_contain_text("Attempt 1 succeeded")
    expect(log.page.get_by_text("This is the whole log")).to_be_visible()
    texts = [
        text.split(" started")[0].split(" after")[0].strip()
        for text in log.rows.locator(".log-text").all_text_contents()
    ]
    assert texts == [
        "Attempt 0",
        "attempt 0 begins",
        "Attempt 0 failed with exit code 3",
        "Attempt 1",
        "attempt 1 begins",
        "no newline yet, but now",
        "last",
        "Attempt 1 succeeded",
    ]


def test_log_view_loses_and_repeats_no_line_over_a_retry_and_a_killed_controller(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    writing = Writing(seed=5, size=20_000, long_lines=0, exits=(7, 0), gate=str(tmp_path / "gate"))
    job_id = launch(client, writing.command(), max_retries_failure=1)
    log = LogPage(pages, cluster, job_id, "?source=stdout")
    wait_until(lambda: len(log.lines()) > 3, "the first lines")
    cluster.kill()
    expect(log.page.get_by_text("connection", exact=False).first).to_be_visible()
    (tmp_path / "gate").touch()
    cluster.start()
    expect(log.page.get_by_text("This is the whole log")).to_be_visible(timeout=60_000)
    outputs = [writing.expected(attempt, "stdout") for attempt in (0, 1)]
    drawn = drawn_lines(log)
    expected = {key: text for attempt, output in enumerate(outputs) for key, text in texts_of(attempt, output)}
    assert list(drawn) == list(expected), "each line once and in order"
    assert {key: drawn[key] for key, text in expected.items() if text} == {k: t for k, t in expected.items() if t}
    with log.page.expect_download() as downloading:
        log.page.get_by_role("link", name="Download").click()
    data = Path(downloading.value.path()).read_bytes()
    assert hashlib.sha256(data).hexdigest() == hashlib.sha256(b"".join(outputs)).hexdigest()
    pages.errors.clear()  # The browser reports the connections that the kill has broken.


def texts_of(attempt: int, output: bytes) -> list[tuple[str, str]]:
    """Return the key and the text of each line of stdout. The text of a line with other characters than plain ASCII is
    empty, because the page may show such a line changed.
    """
    keys, end = [], 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+", output):
        end += len(line)
        text = line.removesuffix(b"\n")
        is_plain = re.fullmatch(rb"[ -\[\]-~]*", text) is not None
        keys.append((f"0.{attempt}.stdout.{end - 1}", text.decode() if is_plain else ""))
    return keys


def drawn_lines(log: LogPage) -> dict[str, str]:
    """Scroll from the beginning to the end of the log, and return the text of each line by its key."""
    log.press("g")
    expect(log.page.locator(".log-separator").first).to_contain_text("Attempt 0")
    seen: dict[str, str] = {}
    while True:
        # The page learns in the next frame that the rows were scrolled. Only then it begins to load further rows.
        log.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        log.page.wait_for_function("() => document.querySelector('#log-rows').getAttribute('aria-busy') === 'false'")
        rows = log.rows.evaluate(
            "rows => [...rows.querySelectorAll('.log-row:not(.log-separator)')]"
            ".map(row => [row.dataset.key, row.querySelector('.log-text').textContent])"
        )
        is_last = log.rows.evaluate("rows => rows.scrollHeight - rows.scrollTop - rows.clientHeight < 2")
        seen |= {key: text for key, text in rows if key not in seen}
        if is_last:
            return seen
        log.rows.evaluate("rows => rows.scrollBy(0, rows.clientHeight)")


def test_log_view_shows_any_part_of_a_large_log_without_loading_the_rest(
    cluster: StandingCluster, large_job: str, pages: Pages
) -> None:
    log = LogPage(pages, cluster, large_job)
    received = 0

    def count(response: object) -> None:
        nonlocal received
        if "FetchLogParts" in response.url:  # type: ignore[attr-defined]
            received += int(response.headers.get("content-length", 0))  # type: ignore[attr-defined]

    log.page.on("response", count)
    reload(log.page)
    expect(log.line(f"line {LARGE_LINES} of a large log, with some more words")).to_be_visible()
    scrollbar = log.page.get_by_role("scrollbar")
    box = scrollbar.bounding_box()
    assert box is not None
    log.page.mouse.click(box["x"] + 5, box["y"] + box["height"] / 2)
    middle = log.page.locator(".log-text", has_text=re.compile("^line (4[5-9]|5[0-5])[0-9]{4} of"))
    expect(middle.first).to_be_visible()
    log.rows.hover()
    for direction in (-1, 1):
        start = number_in_sight(log)

        def moves_on(direction: int = direction, start: int = start) -> bool:
            log.page.mouse.wheel(0, direction * 5000)
            numbers = numbers_of(log)
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "the lines follow each other"
            return direction * (number_in_sight(log) - start) > 1500

        wait_until(moves_on, "lines far from the start")
    log.press("g")
    expect(log.line("line 1 of a large log, with some more words")).to_be_visible()
    log.press("Shift+G")
    expect(log.line(f"line {LARGE_LINES} of a large log, with some more words")).to_be_visible()
    assert received < 12_000_000


@pytest.mark.long  # On a busy machine, the task, its worker and the browser need minutes for the 300 MB.
def test_task_that_writes_as_fast_as_it_can_leaves_the_page_responsive_and_its_log_whole(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    gate, first, last = tmp_path / "gate", 10_000_000, 43_333_332
    script = f"echo line 0; while [ ! -e {gate} ]; do sleep 0.02; done; seq {first} {last}; exit 3"
    job_id = launch(client, shell(script))
    log = LogPage(pages, cluster, job_id)
    expect(log.line("line 0")).to_be_visible()
    received = 0

    def count(event: dict[str, float]) -> None:
        nonlocal received
        received += int(event["encodedDataLength"])

    network = log.page.context.new_cdp_session(log.page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", count)
    # A fast machine writes 300 MB in a second, so the page itself notes the states that it has shown.
    log.page.evaluate(
        """() => {
            frames = 0;
            states = new Set();
            (function count() {
                frames += 1;
                states.add(document.querySelector(".log-status [role=status]").textContent);
                requestAnimationFrame(count);
            })();
        }"""
    )
    gate.touch()
    log.page.wait_for_function("() => [...states].some(state => state.startsWith('Following the end only'))")
    wrap = log.page.get_by_role("button", name="Wrap")
    for pressed in ("true", "false"):
        before = log.page.evaluate("frames")
        wrap.click()
        expect(wrap).to_have_attribute("aria-pressed", pressed)
        log.page.wait_for_function("before => frames > before + 5", arg=before)
    assert log.page.locator(".log-row").count() < 2_500
    expect(log.page.locator(".log-end")).to_contain_text("failed with exit code 3")
    expect(log.line(str(last))).to_be_in_viewport()
    assert received < 60_000_000, "of 300 MB, the page receives little more than it shows"

    skipped = log.page.locator(".log-skipped")
    expect(skipped).to_contain_text(re.compile(r"About \d+ MiB .* Scroll up to read them"))
    seen = last

    def reads_on() -> bool:
        nonlocal seen
        log.scroll_up(5_000)
        numbers = [int(text) for text in log.lines()]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "the lines follow each other"
        assert numbers[-1] >= seen - 1, f"no line is missing below line {seen}"
        seen = numbers[0]
        return seen < last - 1_500

    wait_until(reads_on, "lines far above the last one")
    log.press("g")
    expect(log.line(str(first))).to_be_visible()
    expect(skipped).to_have_count(0)


def numbers_of(log: LogPage) -> list[int]:
    return [int(text.split()[1]) for text in log.lines()]


@pytest.mark.long
def test_log_view_shows_the_end_and_the_middle_of_a_log_of_two_gigabytes(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages
) -> None:
    count = 20_000_000
    code = (
        "import os\n"
        f"for start in range(0, {count}, 1000):\n"
        "    data = b''.join(b'line %-93d\\n' % number for number in range(start, start + 1000))\n"
        "    while data: data = data[os.write(1, data):]\n"
    )
    job_id = launch(client, ["python3", "-c", code])
    wait_for_end(client, job_id)
    log = LogPage(pages, cluster, job_id)
    expect(log.page.locator(".log-text", has_text=f"line {count - 1} ").first).to_be_visible()
    box = log.page.get_by_role("scrollbar").bounding_box()
    assert box is not None
    log.page.mouse.click(box["x"] + 5, box["y"] + box["height"] / 2)
    expect(
        log.page.locator(".log-text", has_text=re.compile("^line (9[5-9]|10[0-5])[0-9]{5,6} ")).first
    ).to_be_visible()
    numbers = numbers_of(log)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def number_in_sight(log: LogPage) -> int:
    """Return the number of the first line in sight."""
    text: str = log.rows.evaluate(
        "rows => [...rows.querySelectorAll('.log-row')].find(row => row.getBoundingClientRect().bottom"
        " > rows.getBoundingClientRect().top).textContent"
    )
    return int(text.split()[1])


def test_log_rows_stay_in_place_until_the_rows_after_scrolling_are_loaded(
    cluster: StandingCluster, large_job: str, pages: Pages
) -> None:
    log = LogPage(pages, cluster, large_job)
    last = log.line(f"line {LARGE_LINES} of a large log, with some more words")
    expect(last).to_be_in_viewport()
    held = HeldRequests(log.page, "**/FetchLogParts")
    log.press("g")
    expect(log.rows).to_have_attribute("aria-busy", "true")
    held.wait()
    log.press("t")  # The page draws the rows again.
    expect(log.page.locator(".log-time").first).to_be_attached()
    expect(last).to_be_in_viewport()
    held.release()
    expect(log.line("line 1 of a large log, with some more words")).to_be_visible()


def test_log_view_continues_by_itself_when_the_log_can_be_read_again(
    cluster: StandingCluster, large_job: str, pages: Pages
) -> None:
    log = LogPage(pages, cluster, large_job)
    expect(log.line(f"line {LARGE_LINES} of a large log, with some more words")).to_be_in_viewport()
    log.page.route("**/FetchLogParts", lambda route: route.fulfill(status=503))
    problem = log.page.get_by_role("alert").filter(has_text="cannot be reached").first

    def shows_problem() -> bool:
        log.scroll_up(10_000)  # The page has more rows in its memory than it draws.
        return problem.is_visible()

    wait_until(shows_problem, "the error")
    highest = numbers_of(log)[0]
    log.page.unroute("**/FetchLogParts")
    wait_until(lambda: numbers_of(log)[0] < highest, "the lines above")
    expect(log.page.get_by_role("alert")).to_have_count(0)
    numbers = numbers_of(log)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_search_in_the_log_view_goes_from_match_to_match_and_a_link_opens_the_line(
    cluster: StandingCluster, large_job: str, pages: Pages
) -> None:
    log = LogPage(pages, cluster, large_job)
    expect(log.rows.locator(".log-row").last).to_be_visible()
    log.press("g")
    expect(log.line("line 1 of a large log, with some more words")).to_be_visible()
    log.press("/")
    log.page.keyboard.type("line [0-9]*77777 of")
    log.page.keyboard.press("Enter")
    selected = log.page.locator(".log-row-selected .log-text")
    expect(selected).to_have_text("line 77777 of a large log, with some more words")
    expect(selected.locator("mark")).to_have_text("line 77777 of")
    log.press("n")
    expect(selected).to_have_text("line 177777 of a large log, with some more words")
    log.press("Shift+N")
    expect(selected).to_have_text("line 77777 of a large log, with some more words")
    log.press("Shift+N")
    expect(log.page.get_by_text("No previous match")).to_be_visible()
    log.press("j")
    expect(selected).to_have_text("line 77778 of a large log, with some more words")
    other = log.page.context.new_page()
    go_to(other, log.page.url)
    expect(other.locator(".log-row-selected .log-text")).to_be_in_viewport()
    expect(other.locator(".log-row-selected .log-text")).to_contain_text("line 77778 of")


def test_filter_of_the_log_view_shows_matching_lines_and_explains_a_wrong_pattern(
    cluster: StandingCluster, large_job: str, pages: Pages
) -> None:
    log = LogPage(pages, cluster, large_job)
    log.page.get_by_label("Only lines with").fill("line [0-9]*99999 of")
    log.page.keyboard.press("Enter")
    expect(log.page.locator(".log-row mark").first).to_be_visible()
    wait_until(lambda: len(numbers_of(log)) == 10, "all matching lines")
    assert numbers_of(log) == [number * 100_000 - 1 for number in range(1, 11)]
    log.page.get_by_label("Only lines with").fill("line (")
    log.page.keyboard.press("Enter")
    expect(log.page.get_by_role("alert").filter(has_text="the pattern 'line (' is invalid").first).to_be_visible()
    log.page.get_by_label("Only lines with").fill("")
    log.page.get_by_label("Since").fill("soon")
    log.page.keyboard.press("Enter")
    expect(log.page.get_by_text("Expected a time such as")).to_be_visible()


def test_log_view_stops_following_when_the_user_scrolls_up_and_counts_new_lines(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    wait = f"while [ ! -e {tmp_path}/$i ]; do sleep 0.02; done"
    script = f"seq 500; for i in 1 2; do {wait}; seq -f 'new %.0f' 124; done; sleep 300"
    job_id = launch(client, shell(script))
    log = LogPage(pages, cluster, job_id)
    expect(log.line("500")).to_be_in_viewport()
    bottom = top_of(log.line("500"))
    log.scroll_up(600)
    wait_until(lambda: top_of(log.line("500")) > bottom + 599, "the rows to be scrolled")
    expect(log.page.get_by_text("Not following.")).to_be_visible()
    expect(log.rows).to_have_attribute("aria-busy", "false")
    expect(log.page.get_by_role("button", name="Back to the end")).not_to_be_visible()
    scrolled = top_of(log.line("500"))
    (tmp_path / "1").touch()
    back = log.page.get_by_role("button", name="124 new lines, back to the end")
    expect(back).to_be_visible()
    assert top_of(log.line("500")) == scrolled, "the rows in sight stay where they are"
    back.click()
    expect(log.line("new 124")).to_be_in_viewport()
    (tmp_path / "2").touch()
    wait_until(lambda: log.lines()[-248:] == 2 * [f"new {number}" for number in range(1, 125)], "the followed lines")
    client.terminate_job(job_id)


def top_of(row: Locator) -> float:
    """Return the distance in pixels between the top of the page and a row."""
    return float(row.evaluate("row => row.getBoundingClientRect().top"))


def test_log_view_merges_tasks_by_time_and_shows_single_tasks(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages, tmp_path: Path
) -> None:
    script = f"""
    while [ ! -e {tmp_path}/$IRIS_TASK_INDEX ]; do sleep 0.01; done
    echo "task $IRIS_TASK_INDEX speaks"
    """
    job_id = launch(client, shell(script), replicas=3)
    wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
    for index in range(3):
        (tmp_path / str(index)).touch()
        # The worker reads the clock when it reads a line from the task, which may be later than the task's next step.
        task = f"{job_id}/task-{index}"
        wait_until(lambda task=task: client.fetch_task_logs(task), f"the line of {task} in its log")  # type: ignore[misc]
    wait_for_end(client, job_id)
    log = LogPage(pages, cluster, job_id)
    expect(log.page.locator(".log-end")).to_have_count(3)
    assert log.lines() == [f"task {index} speaks" for index in range(3)]
    assert log.page.locator(".log-task").all_text_contents() == ["0", "1", "2"]
    log.page.get_by_label("Tasks").fill("0,2")
    log.page.keyboard.press("Enter")
    wait_until(lambda: log.lines() == ["task 0 speaks", "task 2 speaks"], "two tasks")
    log.page.get_by_label("Tasks").fill("7")
    log.page.keyboard.press("Enter")
    expect(log.page.get_by_text("Expected tasks from 0 to 2")).to_be_visible()


def test_hostile_output_of_a_task_is_shown_as_text(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages
) -> None:
    writes = (
        b"<script>document.title = 'hacked'</script><img src=x onerror=alert(1)>\n"
        b"user\xe2\x80\xaetxt.exe\n\0nul\0\n\xff\xfe broken \xc3\n"
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2Jend\n10%\r50%\r100%\n"
    )
    frame = bytes.fromhex("0500001800000000") + bytes(17) + b"fake\n"
    code = f"import os; os.write(1, {writes + frame!r} + b'x' * 20_000_000 + b'\\nafter\\n')"
    job_id = launch(client, ["python3", "-c", code])
    wait_for_end(client, job_id)
    log = LogPage(pages, cluster, job_id)
    expect(log.line("after")).to_be_visible()
    lines = log.lines()
    assert lines[:6] == [
        "<script>document.title = 'hacked'</script><img src=x onerror=alert(1)>",
        "user\\u202etxt.exe",
        "\\0nul\\0",
        "\ufffd\ufffd broken \ufffd",
        "red end",
        "100%",
    ]
    assert lines[6].endswith("fake")
    assert re.fullmatch(r"x{10000,20000} … 19\.\d MiB more, download", lines[7])
    assert log.page.title().endswith("Iris")
    assert log.page.locator("#log-rows script, #log-rows img").count() == 0


def test_log_view_says_why_a_job_waits_and_what_to_do_about_an_unknown_job(
    cluster: StandingCluster, client: RemoteClusterClient, pages: Pages
) -> None:
    blocker = launch(client, ["sleep", "300"], resources=pb.ResourceSpecProto(cpu=1))
    wait_for_state(client, blocker, pb.JOB_STATE_RUNNING)
    worker = client.list_workers()[0]
    waiting = launch(client, ["true"], resources=pb.ResourceSpecProto(cpu=worker.metadata.cpu_count))
    log = LogPage(pages, cluster, waiting)
    expect(log.page.get_by_text("Task 0 waits:")).to_be_visible()
    client.terminate_job(blocker)
    expect(log.page.locator(".log-end")).to_contain_text("succeeded")
    expect(log.page.get_by_text("Task 0 waits:")).not_to_be_visible()
    unknown = LogPage(pages, cluster, "no-such-job")
    expect(unknown.page.get_by_role("alert")).to_contain_text("no-such-job")


def test_log_view_keeps_the_end_of_the_log_in_sight_when_the_window_becomes_narrow(
    cluster: StandingCluster, large_job: str, pages: Pages
) -> None:
    log = LogPage(pages, cluster, large_job)
    last = log.line(f"line {LARGE_LINES} of a large log, with some more words")
    expect(last).to_be_in_viewport()
    log.page.get_by_role("button", name="Wrap").click()
    expect(last).to_be_in_viewport()
    log.page.set_viewport_size({"width": 390, "height": 700})
    expect(log.page.get_by_role("button", name="Filters")).to_be_visible()
    expect(last).to_be_in_viewport()


def test_log_view_is_used_with_the_keyboard_and_has_no_serious_accessibility_problem(
    cluster: StandingCluster, large_job: str, pages: Pages
) -> None:
    log = LogPage(pages, cluster, large_job, color_scheme="dark")
    expect(log.line(f"line {LARGE_LINES} of a large log, with some more words")).to_be_visible()
    log.rows.focus()
    for key in ("k", "ArrowUp", "ArrowDown", "j", "w", "t"):
        log.page.keyboard.press(key)
    expect(log.page.get_by_role("button", name="Wrap")).to_have_attribute("aria-pressed", "true")
    expect(log.page.locator(".log-time").first).to_be_attached()
    expect(log.page.locator(".log-row-selected")).to_have_count(1)
    expect(log.page).to_have_url(re.compile(r"line=0\.0\.stdout\."))
    log.page.keyboard.press("Escape")
    expect(log.page.locator(".log-row-selected")).to_have_count(0)
    assert accessibility_problems(log.page) == []
    log.page.emulate_media(color_scheme="light")
    assert accessibility_problems(log.page, "color-contrast") == []
    pages.take_screenshots(log.page, "logs")

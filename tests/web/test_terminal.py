"""A terminal in a running task, on the page: keys, output, size, end, broken connections and rights."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from support.browser_pages import Pages, accessibility_problems, expect_to_fit
from support.chaos_proxy import ChaosProxy, Faults, always, gentle
from support.cluster import launch, unique
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.controller.forwarding.exec_calls import ExecPolicy
from iris.cluster.controller.storage.store import Store

SHELL = {"SHELL": "/bin/sh", "PS1": "$ "}  # dash reads no files of the user.
SHOWN_S = 30
ROWS = "[...document.querySelectorAll('.xterm-rows > div')].map(row => row.textContent.replaceAll('\\u00a0', ' '))"


@pytest.fixture(scope="module")
def job(shared_cluster: LocalServer) -> Iterator[Job]:
    """A job of two tasks that run until the end of the module."""
    with IrisClient.remote(shared_cluster.address) as client:
        started = client.run(["sleep", "3600"], name=unique("terminal"), replicas=2, env=SHELL)
        yield started
        started.terminate()


def rows(page: Page) -> list[str]:
    """Return the rows of the terminal that are in sight, without blanks at their ends."""
    return [row.rstrip() for row in page.evaluate(ROWS)]


def shows(page: Page, text: str) -> None:
    """Wait until a row of the terminal contains a text."""
    seen: list[str] = []

    def is_shown() -> bool:
        seen[:] = rows(page)
        return text in "\n".join(seen)

    try:
        wait_until(is_shown, f"{text!r} in the terminal", timeout_s=SHOWN_S)
    except AssertionError as error:
        error.add_note("\n".join(seen))
        raise


def open_shell(page: Page) -> None:
    page.get_by_role("button", name="Open a shell").click()
    shows(page, "$")


def open_terminal(pages: Pages, address: str, job: Job, task_index: int = 0) -> Page:
    """Open the view of a terminal, and a shell there."""
    page = pages.open(address, f"#/jobs/{job.job_id}/terminal?task={task_index}")
    open_shell(page)
    return page


def enter(page: Page, line: str) -> None:
    page.keyboard.type(line)
    page.keyboard.press("Enter")


def status(page: Page) -> str:
    return page.locator(".terminal-status").inner_text()


def commands_in(client: IrisClient, job: Job, words: str) -> int:
    """Return the number of processes in task 0 whose command line contains some words."""
    found = client.exec(job, ["sh", "-c", f"pgrep -cf '{words[0]}[{words[1]}]{words[2:]}'"])
    return int(found.stdout)


def test_shell_echoes_runs_commands_and_reports_its_exit_code(
    shared_cluster: LocalServer, job: Job, pages: Pages
) -> None:
    page = pages.open(shared_cluster.address, f"#/jobs/{job.job_id}?task=1")
    page.locator(".task-panel").get_by_role("link", name="Terminal").click()
    assert page.locator(".xterm").count() == 0  # Only the user starts a shell, and not the address.
    open_shell(page)
    assert page.locator(".terminal-screen").evaluate("element => element.contains(document.activeElement)")
    enter(page, 'echo "task is $IRIS_TASK_INDEX, terminal is $TERM"')
    shows(page, "task is 1, terminal is xterm-256color")
    enter(page, "printf '\\033[31mred \\033[38;2;1;90;3mtrue \\033[7mturned\\033[0m \\033[1mbold\\033[0m ü 漢\\n'")
    shows(page, "red true turned bold ü 漢")
    red = page.locator(".xterm-rows span").filter(has_text="red").last
    true = page.locator(".xterm-rows span").filter(has_text="true").last
    assert red.evaluate("element => getComputedStyle(element).color") != true.evaluate(
        "element => getComputedStyle(element).color"
    )
    assert true.evaluate("element => getComputedStyle(element).color") == "rgb(1, 90, 3)"
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "terminal")
    page.locator(".xterm-helper-textarea").focus()
    enter(page, "exit 7")
    expect(page.locator(".terminal-status")).to_have_text("The shell has ended with exit code 7.")
    expect(page.get_by_role("button", name="Open another shell")).to_be_focused()
    shows(page, "red true")  # The output stays.
    page.get_by_role("button", name="Open another shell").click()
    wait_until(lambda: rows(page)[0] == "$", "a new shell on an empty screen")


def test_terminal_on_the_page_has_the_size_of_its_view(shared_cluster: LocalServer, job: Job, pages: Pages) -> None:
    page = open_terminal(pages, shared_cluster.address, job)
    wide = columns(page, below=1000)
    page.set_viewport_size({"width": 390, "height": 700})
    expect_to_fit(page)
    assert columns(page, below=wide) > 20


def columns(page: Page, below: int) -> int:
    """Wait until the shell reports as many rows as the view has, and fewer columns than `below`. Return the columns."""

    def fitting() -> int:
        enter(page, "clear; stty size")
        # This size may still be the answer to an earlier command.
        size = wait_until(lambda: re.search(r"^(\d+) (\d+)$", "\n".join(rows(page)), re.M), "a size")
        return int(size[2]) if int(size[1]) == len(rows(page)) and int(size[2]) < below else 0

    return wait_until(fitting, "the size of the terminal")


def test_interrupt_in_the_terminal_on_the_page_ends_the_command_and_not_the_shell(
    shared_cluster: LocalServer, job: Job, pages: Pages
) -> None:
    page = open_terminal(pages, shared_cluster.address, job)
    enter(page, "sleep 1000; echo code $?")
    shows(page, "sleep 1000; echo code")
    page.keyboard.press("Control+c")
    shows(page, "^C")
    enter(page, "echo still $((40 + 2))")
    shows(page, "still 42")


def test_terminal_on_the_page_pastes_no_control_characters(shared_cluster: LocalServer, job: Job, pages: Pages) -> None:
    page = open_terminal(pages, shared_cluster.address, job)
    enter(page, "printf '\\033[?2004h'; cat -v")  # The terminal now marks the beginning and end of a paste.
    shows(page, "cat -v")
    paste = """(element, text) => {
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", text);
        element.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true}));
    }"""

    def is_marked() -> bool:
        page.locator(".xterm-helper-textarea").evaluate(paste, "one\x1b[201~ \x9b two\x03\n")
        return any("^[[200~one[201~  two" in row for row in rows(page))

    wait_until(is_marked, "the pasted text without control characters")
    assert not any("^[[201~ " in row or "^C" in row for row in rows(page))


def test_terminal_on_the_page_loses_and_repeats_no_output_over_broken_connections(
    shared_cluster: LocalServer, job: Job, pages: Pages
) -> None:
    target = "127.0.0.1", urlsplit(shared_cluster.address).port or 0
    with ChaosProxy(target, gentle) as proxy:
        page = pages.open(proxy.address, f"#/jobs/{job.job_id}/terminal", viewport={"width": 1600, "height": 3000})
        open_shell(page)
        # A connection breaks after 280 kB, which is more than one message of the worker. The shell writes 590 kB. The
        # connection that is open now breaks before the shell writes, because it would not break later.
        proxy.plan = always(Faults("cut", after_bytes=280_000))
        proxy.strike()
        enter(page, "PS1=done:; clear; seq -s, 100000; read line")
        wait_until(lambda: "99999,100000" in "".join(rows(page)), "the end of the output")
        assert proxy.faults["cut"] >= 1
        proxy.plan = gentle
        enter(page, "")
        shows(page, "done:")
        shown = "".join(lines_of_scrollback(page))
        assert shown.split("done:")[0] == ",".join(map(str, range(1, 100_001)))


def lines_of_scrollback(page: Page) -> list[str]:
    """Return all rows of the terminal, also those that were scrolled out of sight."""
    pages_of_rows = [rows(page)]
    while True:
        page.keyboard.press("Shift+PageUp")
        before = pages_of_rows[0]
        now = wait_for_other_rows(page, before)
        if now is None:
            break
        # A page scrolls by all its rows but one, and by fewer rows at the beginning.
        overlap = next(size for size in range(len(now), -1, -1) if now[len(now) - size :] == before[:size])
        pages_of_rows.insert(0, now[: len(now) - overlap])
        pages_of_rows[0:2] = [pages_of_rows[0] + before]
    return pages_of_rows[0]


def wait_for_other_rows(page: Page, before: list[str]) -> list[str] | None:
    """Return the rows in sight after the terminal has drawn them; None if they have not changed."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    now = rows(page)
    return None if now == before[: len(now)] else now


def test_hostile_output_changes_only_the_terminal(
    shared_cluster: LocalServer, job: Job, pages: Pages, tmp_path: Path
) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(1).randbytes(300_000))
    page = open_terminal(pages, shared_cluster.address, job)
    title = page.title()
    script = (
        "printf '<script>document.title=1</script><img src=x onerror=alert(1)>\\033]0;pwned\\007"
        "\\033]52;c;cHduZWQ=\\007\\033[3;2t\\033[8;3;3t\\0\\377\\376\\033P$q\"p\\033\\\\\\342\\200\\256ab\\n'; echo END"
    )
    enter(page, script)
    shows(page, "\nEND")
    shows(page, "<script>document.title=1</script><img src=x onerror=alert(1)>")
    page.keyboard.press("Control+u")  # The shell has got the terminal's answer to a question in the script.
    enter(page, f"cat {noise}; printf '\\033c'; echo AL''IVE")
    shows(page, "ALIVE")
    assert page.title() == title
    assert page.locator(".xterm-rows img, .xterm-rows script").count() == 0
    assert len(rows(page)) > 10  # The command cannot change the size of the view.


def test_leaving_the_view_of_a_terminal_ends_its_shell(
    shared_cluster: LocalServer, client: IrisClient, job: Job, pages: Pages
) -> None:
    page = open_terminal(pages, shared_cluster.address, job)
    enter(page, "sleep 4321")
    wait_until(lambda: commands_in(client, job, "sleep 4321") == 1, "the command")
    page.get_by_role("heading", level=1).get_by_role("link").click()
    wait_until(lambda: commands_in(client, job, "sleep 4321") == 0, "the end of the command")
    page.go_back()
    open_shell(page)
    enter(page, "sleep 4322")
    wait_until(lambda: commands_in(client, job, "sleep 4322") == 1, "the command")
    page.close()
    # The wait is shorter than the minute after which the worker ends a command without a client.
    wait_until(lambda: commands_in(client, job, "sleep 4322") == 0, "the end of the command", timeout_s=50)


def test_focus_leaves_the_terminal_with_a_key_and_screen_readers_get_the_text(
    shared_cluster: LocalServer, job: Job, pages: Pages
) -> None:
    page = open_terminal(pages, shared_cluster.address, job)
    page.keyboard.press("Tab")  # The shell gets this key.
    assert page.locator(".terminal-screen").evaluate("element => element.contains(document.activeElement)")
    page.keyboard.press("Control+m")
    end = page.get_by_role("button", name="End the shell")
    expect(end).to_be_focused()
    page.get_by_label("Screen reader").check()
    page.locator(".xterm-helper-textarea").focus()
    enter(page, "echo read $((20 + 3))")
    expect(page.locator(".xterm-accessibility-tree")).to_contain_text("read 23")
    assert accessibility_problems(page) == []
    page.keyboard.press("Control+m")
    page.keyboard.press("Enter")
    expect(page.locator(".terminal-status")).to_have_text("You have ended the shell.")


def test_shell_on_the_page_ends_when_its_task_ends(
    shared_cluster: LocalServer, client: IrisClient, pages: Pages
) -> None:
    job = client.run(["sleep", "600"], name=unique("ends"), env=SHELL)
    page = open_terminal(pages, shared_cluster.address, job)
    job.terminate()
    expect(page.locator(".terminal-status")).to_contain_text("ended")
    client.wait(job.job_id)
    page.get_by_role("button", name="Open another shell").click()
    expect(page.locator(".terminal-status")).to_contain_text(f"task {job.job_id}/task-0 has ended: KILLED")


def test_view_of_the_terminal_of_a_waiting_task_says_that_the_task_waits(
    controller: ControllerThread, pages: Pages
) -> None:
    with RemoteClusterClient(controller.address) as cluster:
        job_id = launch(cluster, ["true"])
        page = pages.open(controller.address, f"#/jobs/{job_id}/terminal")
        page.get_by_role("button", name="Open a shell").click()
        expect(page.locator(".terminal-status")).to_contain_text("is PENDING. The shell starts when it runs.")
        page.get_by_role("button", name="End the shell").click()
        cluster.terminate_job(job_id)


def test_view_of_a_terminal_says_that_the_cluster_runs_no_commands(tmp_path: Path, pages: Pages) -> None:
    store = Store(tmp_path / "controller.db")
    with serving(FakeEngine(), store, execs=ExecPolicy(is_allowed=False)) as served:
        with RemoteClusterClient(served.address) as cluster:
            job_id = launch(cluster, ["true"])
        page = pages.open(served.address, f"#/jobs/{job_id}/terminal")
        page.get_by_role("button", name="Open a shell").click()
        expect(page.locator(".terminal-status")).to_contain_text("started with 'iris up --no-exec'")
        page.close()


@pytest.mark.parametrize("role", ["reader", pytest.param("user", marks=pytest.mark.long)])
def test_user_who_may_not_run_commands_sees_no_terminal(
    shared_cluster: LocalServer, job: Job, pages: Pages, role: str
) -> None:
    page = pages.open(shared_cluster.address, f"#/jobs/{job.job_id}?task=1", secret=token(role, name="bob"))
    expect(page.locator(".task-panel")).to_be_visible()
    expect(page.get_by_role("link", name="Terminal")).to_have_count(0)
    page.goto(f"{page.url.partition('#')[0]}#/jobs/{job.job_id}/terminal")
    expect(page.get_by_text("You may not look inside this job")).to_be_visible()
    expect(page.get_by_role("button", name="Open a shell")).to_have_count(0)


@pytest.mark.long  # web/test/hub.test.ts checks the rule without a browser.
def test_terminals_leave_connections_for_the_other_views(shared_cluster: LocalServer, job: Job, pages: Pages) -> None:
    first = open_terminal(pages, shared_cluster.address, job)
    context: BrowserContext = first.context
    others = []
    for _ in range(4):
        tab = pages.open_tab(context, shared_cluster.address, f"#/jobs/{job.job_id}/terminal")
        open_shell(tab)
        others.append(tab)
    lists = pages.open_tab(context, shared_cluster.address)
    expect(lists.get_by_role("link", name=job.job_id)).to_be_visible()
    for tab in (first, *others):
        tab.bring_to_front()
        tab.locator(".xterm-helper-textarea").focus()
        enter(tab, "echo here $((50 + 5))")
        shows(tab, "here 55")

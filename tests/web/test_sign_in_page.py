"""Signing in to the page in a real browser, and what pages of other origins in the same browser can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect
from support.browser_pages import Pages, accessibility_problems, expect_to_fit, go_to, reload
from support.cluster import launch, running_cluster, unique
from support.controller_thread import ControllerThread
from support.page_server import PageServer
from support.ports import free_port
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.types import is_job_finished

# A hostile page. It tries to use the session of the cluster's page in each way that a browser has.
HOSTILE = b"""<!doctype html><meta charset="utf-8"><title>hostile</title><form method="post"></form><iframe></iframe>
<script>
const target = new URLSearchParams(location.search);
const call = (method, type, mode) =>
  fetch(target.get("base") + "iris.cluster.ControllerService/" + method, {
    method: "POST", credentials: "include", mode, headers: { "content-type": type }, body: target.get("body"),
  }).then((answer) => answer.type + " " + answer.status, (error) => "failed");
async function attack(method) {
  const seen = {};
  for (const type of ["application/json", "text/plain", "application/x-www-form-urlencoded"])
    for (const mode of ["cors", "no-cors"]) seen[type + " " + mode] = await call(method, type, mode);
  return seen;
}
function post(method) {
  const form = document.forms[0];
  form.action = target.get("base") + "iris.cluster.ControllerService/" + method;
  form.enctype = "text/plain";
  const field = document.createElement("input");
  // A form of this kind sends `name=value`, which can be made to look like JSON.
  const body = target.get("body");
  field.name = body.slice(0, -1) + ', "a": "';
  field.value = '"}';
  form.append(field);
  form.submit();
}
</script>"""


@pytest.fixture(scope="module")
def cluster(controller: ControllerThread) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(controller.address) as client:
        yield client


def link(server: ControllerThread | LocalServer, job_id: str | None = None, role: str = "user") -> str:
    """Return a sign-in link of ana, without the address of the cluster."""
    with IrisClient.remote(server.address, token=token(role, name="ana")) as client:
        return client.web_link(job_id).removeprefix(f"{server.address}/")


def signed_in(page: Page) -> None:
    """Wait until the page shows who is signed in."""
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def accept_link(page: Page) -> None:
    """Answer the question whether to sign in with ana's link."""
    page.get_by_role("button", name="Sign in as ana").click()
    signed_in(page)


def session_path(page: Page) -> str:
    """Return the path of the page's session."""
    found = page.evaluate("localStorage.getItem('iris.session /')")
    assert isinstance(found, str)
    return found


def test_sign_in_link_signs_the_browser_in_and_leaves_no_trace_of_its_code(
    controller: ControllerThread, pages: Pages
) -> None:
    requests: list[str] = []
    route = link(controller, "some-job")
    code = re.search(r"code=([^&]+)", route)
    assert code is not None
    page = pages.open(controller.address, "#/cluster", secret="")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.context.on("request", lambda request: requests.append(f"{request.url} {request.headers.get('referer')}"))
    tab = pages.open_tab(page.context, controller.address, route)
    accept_link(tab)
    signed_in(page)  # Signing in in one tab applies to the other tab.
    expect(tab).to_have_url(f"{controller.address}/#/jobs/some-job")
    reload(tab)
    signed_in(tab)
    assert "ana" in (tab.get_by_role("banner").text_content() or "")
    assert requests
    storage = tab.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, history.state])")
    (cookie,) = tab.context.cookies()
    for secret in (code[1], cookie["value"]):
        assert secret not in "\n".join(requests)
        assert secret not in storage + tab.url + tab.content()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
    assert cookie["path"] == f"/{session_path(tab)}/"


def test_sign_in_link_of_another_user_asks_before_it_changes_the_user(
    controller: ControllerThread, pages: Pages
) -> None:
    page = pages.open(controller.address, "#/jobs", secret=token("admin", name="bob"))
    signed_in(page)
    before = session_path(page)
    banner = page.get_by_role("banner")
    page.goto(f"{controller.address}/{link(controller, 'some-job')}")
    expect(page.get_by_role("alert")).to_contain_text("The link belongs to ana with the role user")
    assert session_path(page) == before
    assert accessibility_problems(page) == []
    with page.expect_response(re.compile("/SignOut$")) as signing_out:
        page.get_by_role("button", name="Stay bob").click()
    assert signing_out.value.status == 200
    assert before not in signing_out.value.url
    expect(banner).to_contain_text("bob")
    assert session_path(page) == before
    page.goto(f"{controller.address}/{link(controller, 'some-job')}")
    page.get_by_role("button", name="Change to ana").click()
    expect(banner).to_contain_text("ana")
    page.goto(f"{controller.address}/{link(controller, 'another-job')}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("another-job")  # The user stays the same.


def test_sign_in_link_asks_for_confirmation_in_a_browser_without_a_session(
    controller: ControllerThread, pages: Pages
) -> None:
    page = pages.open(controller.address, link(controller, "some-job"), secret="")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in as ana?")
    expect(page.get_by_role("alert")).to_contain_text("The link belongs to ana with the role user")
    assert page.evaluate("localStorage.length") == 0
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "sign-in-link")
    with page.expect_response(re.compile("/SignOut$")) as signing_out:
        page.get_by_role("button", name="Do not sign in").click()
    assert signing_out.value.status == 200
    expect(page.get_by_label("Or enter a token")).to_be_visible()
    assert page.context.cookies() == []


def test_sign_in_link_that_is_entered_in_a_tab_of_the_page_signs_the_browser_in(
    controller: ControllerThread, pages: Pages
) -> None:
    page = pages.open(controller.address, "#/cluster", secret="")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    # Only the hash differs, so the page is not loaded again.
    page.goto(f"{controller.address}/{link(controller, 'some-job')}")
    accept_link(page)
    expect(page).to_have_url(f"{controller.address}/#/jobs/some-job")


def test_used_sign_in_link_leads_to_an_explanation_and_the_sign_in_form(
    controller: ControllerThread, pages: Pages
) -> None:
    route = link(controller)
    accept_link(pages.open(controller.address, route, secret=""))
    page = pages.open(controller.address, route, secret="")
    expect(page.get_by_role("alert")).to_contain_text("This sign-in link was already used")
    assert accessibility_problems(page) == []
    page.get_by_role("button", name="Use a token instead").click()
    expect(page.get_by_label("Or enter a token")).to_be_visible()


def test_sign_in_form_accepts_a_token_and_shows_why_a_token_is_refused(
    controller: ControllerThread, pages: Pages
) -> None:
    page = pages.open(controller.address, "#/machines", secret="", viewport={"width": 390, "height": 800})
    field = page.get_by_label("Or enter a token")
    field.fill("nonsense")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not a token of this cluster")
    expect(field).to_be_focused()
    assert accessibility_problems(page) == []
    pages.take_screenshots(page, "sign-in")
    field.fill(token("reader", name="bob"))
    page.get_by_role("button", name="Sign in").click()
    signed_in(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Machines")
    expect_to_fit(page)


def test_sign_out_ends_the_session_in_all_tabs(controller: ControllerThread, pages: Pages) -> None:
    page = pages.open(controller.address, link(controller), secret="")
    accept_link(page)
    other = pages.open_tab(page.context, controller.address, "#/machines")
    signed_in(other)
    page.get_by_role("button", name="Sign out").click()
    for tab in (page, other):
        expect(tab.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.context.cookies() == []
    assert page.evaluate("localStorage.length") == 0


def test_page_asks_for_a_token_only_after_the_answer_to_the_sign_out_has_deleted_the_cookie(
    controller: ControllerThread, pages: Pages
) -> None:
    page = pages.open(controller.address, "#/jobs", secret=token("user", name=unique("ana")))
    signed_in(page)
    held: list[tuple[Route, APIResponse]] = []
    page.route(re.compile("/SignOut$"), lambda route: held.append((route, route.fetch())))
    page.get_by_role("button", name="Sign out").click()
    wait_until(lambda: page.evaluate("1") and held, "the end of the session")
    # The session has ended, but the browser has not received the answer. The controller refuses all other calls.
    page.get_by_role("link", name="Machines").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Machines")
    expect(page.get_by_text("The machines cannot be shown")).to_be_visible()
    expect(page.get_by_role("heading", name="Sign in")).to_be_hidden()
    (route, response) = held[0]
    route.fulfill(response=response)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_tab_asks_for_a_token_only_after_the_answer_to_its_sign_out_although_another_tab_asks_before(
    controller: ControllerThread, pages: Pages
) -> None:
    page = pages.open(controller.address, "#/jobs", secret=token("user", name=unique("ana")))
    signed_in(page)
    other = pages.open_tab(page.context, controller.address, "#/machines")
    signed_in(other)
    # The listener is called after the one of the page.
    page.evaluate("addEventListener('storage', () => { window.hasHeard = true; })")
    held: list[tuple[Route, APIResponse]] = []
    page.route(re.compile("/SignOut$"), lambda route: held.append((route, route.fetch())))
    page.get_by_role("button", name="Sign out").click()
    wait_until(lambda: page.evaluate("1") and held, "the end of the session")
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
    page.wait_for_function("window.hasHeard")
    expect(page.get_by_role("heading", name="Sign in")).to_be_hidden()
    (route, response) = held[0]
    route.fulfill(response=response)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_revoked_token_leads_to_the_form_with_the_reason(
    controller: ControllerThread, cluster: RemoteClusterClient, pages: Pages
) -> None:
    made = cluster.create_token(unique("ana"), "user")
    page = pages.open(controller.address, "#/cluster", secret=made.secret)
    signed_in(page)
    cluster.revoke_token(made.token.token_id)
    # An open stream ends with the first reason. A call or a stream that begins later gets the second one.
    expect(page.get_by_role("alert")).to_contain_text(re.compile("token was revoked|session has ended"))
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)


def test_page_of_another_origin_can_neither_call_the_cluster_nor_end_a_job_nor_frame_the_page(
    controller: ControllerThread, cluster: RemoteClusterClient, pages: Pages
) -> None:
    job_id = launch(cluster, ["true"])
    page = pages.open(controller.address, link(controller), secret="")
    accept_link(page)
    base = f"{controller.address}/{session_path(page)}/"
    with PageServer({"/hostile.html": HOSTILE}) as other:
        # The worst case: the other page has the same host, so it is of the same site, and it knows the session's path.
        for address in (other.origin, other.origin.replace("127.0.0.1", "localhost")):
            hostile = page.context.new_page()
            go_to(hostile, f"{address}/hostile.html?base={base}&body=%7B%22jobId%22:%22{job_id}%22%7D")
            found = hostile.evaluate("attack('TerminateJob')")
            assert {key for key, value in found.items() if value != "failed"} <= {
                f"{kind} no-cors" for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded")
            }, found
            with hostile.expect_navigation():
                hostile.evaluate("post('TerminateJob')")
            hostile.go_back()
            hostile.evaluate(f"document.querySelector('iframe').src = '{controller.address}/'")
            hostile.wait_for_function("document.querySelector('iframe').contentDocument === null")
            frame = hostile.frames[1]
            assert frame.query_selector("#app") is None, "the page is shown in a frame"
            hostile.close()
    assert not is_job_finished(cluster.get_job_status(job_id).state)
    signed_in(page)
    cluster.terminate_job(job_id)
    pages.errors.clear()


def test_other_server_of_the_same_host_does_not_receive_the_session_cookie(
    controller: ControllerThread, pages: Pages
) -> None:
    page = pages.open(controller.address, link(controller), secret="")
    accept_link(page)
    with PageServer({"/x.html": b"<!doctype html>"}) as other:
        tab = page.context.new_page()
        seen: list[str] = []
        tab.on("request", lambda request: seen.append(request.all_headers().get("cookie", "")))
        go_to(tab, f"{other.origin}/x.html")
        reload(tab)
    assert seen == [""] * len(seen) != []


@pytest.mark.long  # `tests/cluster/test_sign_in.py` has the same test without a browser.
def test_session_survives_a_restart_of_the_controller_with_the_page_open(tmp_path: Path, pages: Pages) -> None:
    port = free_port()
    with running_cluster(tmp_path, port=port) as server:
        page = pages.open(server.address, link(server), secret="")
        accept_link(page)
    with running_cluster(tmp_path, port=port):
        reload(page)
        signed_in(page)
    pages.errors.clear()

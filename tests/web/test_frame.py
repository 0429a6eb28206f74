"""The frame of the page: navigation, theme, addresses, and the files that the controller serves."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect
from support.browser_pages import WEB, Pages, accessibility_problems, reload
from support.controller_thread import ControllerThread


@pytest.mark.parametrize("path", ["/", "/index.html", "/start.js", "/app.js", "/app.css", "/icon.svg"])
def test_file_of_the_page_has_strict_headers_and_is_served_again_only_after_a_change(
    controller: ControllerThread, path: str
) -> None:
    plain = httpx.get(controller.address + path, headers={"accept-encoding": "identity"})
    packed = httpx.get(controller.address + path, headers={"accept-encoding": "br, gzip"})
    again = httpx.get(controller.address + path, headers={"if-none-match": packed.headers["etag"]})
    head = httpx.head(controller.address + path)
    assert plain.content == packed.content
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.content) == (200, b"")
    for answer in (plain, packed, again, head):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"


def test_file_of_the_page_is_not_served_for_other_methods_and_paths(controller: ControllerThread) -> None:
    assert httpx.post(controller.address + "/").status_code == 405
    assert httpx.get(controller.address + "/app.js/more").status_code == 404
    assert httpx.get(controller.address + "/inputs.sha256").status_code == 404
    assert httpx.get(controller.address + "/../page.py").status_code == 404


def test_navigation_of_the_web_page_shows_each_view_and_its_title(controller: ControllerThread, pages: Pages) -> None:
    page = pages.open(controller.address, "")
    for name in ("Machines", "Cluster", "Jobs"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
        expect(page).to_have_title(f"{name} · Iris")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Cluster")


def test_unknown_address_of_the_web_page_leads_to_the_list_of_jobs(controller: ControllerThread, pages: Pages) -> None:
    page = pages.open(controller.address, "#/nowhere/at/all")
    page.get_by_role("link", name="list of jobs", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")


def test_theme_of_the_web_page_is_kept_after_a_reload(controller: ControllerThread, pages: Pages) -> None:
    page = pages.open(controller.address, "#/machines", color_scheme="light")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    switch = page.get_by_role("button", name=re.compile("^Theme"))
    while "dark" not in (switch.text_content() or ""):
        switch.click()
    reload(page)
    expect(switch).to_have_text("Theme: dark")
    assert page.evaluate(background) != light


def test_frame_of_the_web_page_has_no_serious_accessibility_problem(controller: ControllerThread, pages: Pages) -> None:
    page = pages.open(controller.address, "#/nowhere", color_scheme="light")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert accessibility_problems(page) == []
    page.emulate_media(color_scheme="dark")
    assert accessibility_problems(page, "color-contrast") == []


def test_sources_of_the_web_page_never_turn_text_into_markup() -> None:
    dangerous = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc")
    sources = [*(WEB / "src").rglob("*.ts"), *(WEB / "src").rglob("*.tsx")]
    assert len(sources) > 20
    found = [f"{path.name}: {line}" for path in sources for line in _lines(path) if dangerous.search(line)]
    assert found == []


def _lines(path: Path) -> list[str]:
    return [] if "gen" in path.parts else path.read_text().splitlines()

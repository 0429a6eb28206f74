"""The page behind real proxies, below the path that docs/proxies.md configures."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from support.browser_pages import Pages, go_to
from support.certificates import CertificateAuthority
from support.controller_thread import ControllerThread
from support.reverse_proxies import KINDS, running_proxy
from support.tokens import token

from iris.client import IrisClient


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "ssh"])
def address(
    request: pytest.FixtureRequest,
    controller: ControllerThread,
    authority: CertificateAuthority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of the page behind a proxy."""
    directory = tmp_path_factory.mktemp(request.param)
    port = urlsplit(controller.address).port or 0
    certificate = authority.server("127.0.0.1")
    with running_proxy(request.param, directory, port, certificate, is_below_a_path=True) as running:
        yield running


def test_page_served_below_a_url_path_makes_all_its_calls_below_this_path(
    address: str, authority: CertificateAuthority, pages: Pages
) -> None:
    with IrisClient.remote(address, ca=authority.path, token=token("user", name="ana")) as client:
        link = client.web_link()
    page = pages.open(address, "#/cluster", secret="", ignore_https_errors=True)
    requests: list[str] = []
    page.context.on("request", lambda request: requests.append(request.url))
    tab = pages.open_tab(page.context, address, link.removeprefix(f"{address}/"))
    tab.get_by_role("button", name="Sign in as ana").click()
    expect(tab.get_by_role("button", name="Sign out")).to_be_visible()
    go_to(tab, address)  # Without the slash at the end, the proxy sends the browser on.
    expect(tab.get_by_role("button", name="Sign out")).to_be_visible()
    tab.get_by_role("link", name="Machines").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Machines")
    assert [url for url in requests if not url.startswith(address)] == []
    (cookie,) = tab.context.cookies()
    assert cookie["secure"]
    assert cookie["path"].startswith("/iris/session/")
    tab.get_by_role("button", name="Sign out").click()
    expect(tab.get_by_role("heading", name="Sign in")).to_be_visible()
    assert tab.context.cookies() == []

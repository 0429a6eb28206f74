"""Which calls of a browser come from the cluster's own page, judging by their headers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iris.errors import PermissionDeniedError
from iris.reasons import ErrorReason
from iris.rpc.auth.web_request import WebRequest, check_call, check_download, own_origin

ORIGIN = "https://iris.example.org"
CALL = WebRequest("POST", "iris.example.org", ORIGIN, "application/proto", "same-origin")
DOWNLOAD = WebRequest("GET", "iris.example.org", fetch_site="same-origin")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (ORIGIN, "iris.example.org"),
        (ORIGIN, "iris.example.org:443"),
        ("http://127.0.0.1:50051", "127.0.0.1:50051"),
        ("http://[::1]:50051", "[::1]:50051"),
        ("http://localhost", "localhost:80"),
        ("https://IRIS.example.org", "iris.example.org"),
    ],
)
def test_call_of_the_page_at_the_address_of_the_server_is_accepted(origin: str, host: str) -> None:
    request = replace(CALL, origin=origin, host=host)
    assert own_origin(request) == origin
    check_call(request, origin)


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": ""},
        {"origin": "null"},
        {"origin": "https://evil.example.org"},
        {"origin": "http://iris.example.org"},
        {"origin": "https://iris.example.org:8443"},
        {"origin": "https://iris.example.org.evil.org"},
        {"origin": "https://user@iris.example.org"},
        {"origin": "https://iris.example.org/path"},
        {"origin": "https://iris.example.org:x"},
        {"origin": "file://iris.example.org"},
        {"host": ""},
        {"host": "evil.example.org"},
        {"host": "iris.example.org:50051"},
        {"origin": "https://evil.example.org", "host": "evil.example.org"},
        {"content_type": ""},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data"},
        {"content_type": "application/grpc-web+proto"},
        {"fetch_site": "same-site"},
        {"fetch_site": "cross-site"},
        {"fetch_site": "none"},
        {"method": "GET"},
        {"method": "PUT"},
    ],
)
def test_call_from_another_web_page_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        check_call(replace(CALL, **changed), ORIGIN)
    assert caught.value.reason == ErrorReason.FOREIGN_PAGE


def test_browser_without_the_header_sec_fetch_site_is_accepted() -> None:
    check_call(replace(CALL, fetch_site=""), ORIGIN)
    check_download(replace(DOWNLOAD, fetch_site=""), ORIGIN)


@pytest.mark.parametrize("fetch_site", ["same-origin", "none"])
def test_download_by_the_page_or_the_user_is_accepted(fetch_site: str) -> None:
    check_download(replace(DOWNLOAD, fetch_site=fetch_site), ORIGIN)
    check_download(replace(DOWNLOAD, fetch_site=fetch_site, method="HEAD", origin=ORIGIN), ORIGIN)


@pytest.mark.parametrize(
    "changed",
    [
        {"fetch_site": "cross-site"},
        {"fetch_site": "same-site"},
        {"host": "evil.example.org"},
        {"origin": "https://evil.example.org"},
        {"origin": "null"},
        {"method": "POST"},
    ],
)
def test_download_by_another_web_page_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(PermissionDeniedError):
        check_download(replace(DOWNLOAD, **changed), ORIGIN)


def test_all_session_cookies_of_a_request_are_read() -> None:
    headers = [
        (b"host", b"localhost:1"),
        (b"origin", b"http://localhost:1"),
        (b"content-type", b"application/JSON; charset=utf-8"),
        (b"cookie", b"a=b; iris_session=one;iris_session=two"),
        (b"cookie", b"iris_session=a=b; broken"),
    ]
    found = WebRequest.of_headers("POST", headers, "iris_session")
    assert found.cookies == ("one", "two", "a=b")
    assert (found.content_type, found.origin, found.fetch_site) == ("application/json", "http://localhost:1", "")


@pytest.mark.parametrize("name", [b"origin", b"host", b"content-type"])
def test_header_with_two_different_values_counts_as_missing(name: bytes) -> None:
    headers = [(name, b"one"), (name, b"two"), (name, b"one")]
    found = WebRequest.of_headers("POST", headers, "c")
    assert (found.origin, found.host, found.content_type) == ("", "", "")

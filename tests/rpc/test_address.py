"""Addresses as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from iris.errors import InvalidAddressError
from iris.rpc.address import ACCEPTED_FORMS, advertised, is_loopback, is_wildcard, parse_address


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:50051", "http://localhost:50051"),
        ("127.0.0.1:1", "http://127.0.0.1:1"),
        ("10.0.0.1:65535", "http://10.0.0.1:65535"),
        ("my-host_2.example.com:80", "http://my-host_2.example.com:80"),
        ("[::1]:50051", "http://[::1]:50051"),
        ("  localhost:50051\n", "http://localhost:50051"),
        ("http://localhost:50051", "http://localhost:50051"),
        ("http://localhost:50051/", "http://localhost:50051"),
        ("http://localhost", "http://localhost"),
        ("https://iris.example.com", "https://iris.example.com"),
        ("https://iris.example.com:8443/", "https://iris.example.com:8443"),
        ("https://proxy.example.com/iris", "https://proxy.example.com/iris"),
        ("https://proxy.example.com/iris/", "https://proxy.example.com/iris"),
        ("http://[::1]:50051", "http://[::1]:50051"),
    ],
)
def test_address_in_an_accepted_form_becomes_a_url(given: str, url: str) -> None:
    assert parse_address(given) == url
    assert parse_address(url) == url


REFUSED: list[Any] = [
    "",
    "   ",
    "localhost",
    "localhost:",
    ":50051",
    "50051",
    "localhost:http",
    "localhost:0",
    "localhost:65536",
    "localhost:-1",
    "localhost:50051:2",
    "localhost:50051/path",
    "::1:50051",
    "[::1]",
    "[localhost]:50051",
    "[::zz]:50051",
    "host name:50051",
    "hé:50051",
    "localhost:\u0665\u0660",
    "http://",
    "http:///path",
    "http://:50051",
    "http:/localhost:50051",
    "http:localhost:50051",
    "http://localhost:0",
    "http://localhost:99999",
    "http://localhost:port",
    "http://host name:50051",
    "http://localhost:50051?a=b",
    "http://localhost:50051#a",
    "http://user:secret@localhost:50051",
    "http://user@localhost:50051",
    "http://[::1:50051",
    "http://host\n.example.com",
    "grpc://localhost:50051",
    "ftp://localhost",
    "//localhost:50051",
    "unix:/tmp/socket",
    "/tmp/socket",
    None,
    50051,
    b"localhost:50051",
    ("localhost", 50051),
]


@pytest.mark.parametrize("given", REFUSED, ids=repr)
def test_refused_address_is_shown_with_the_accepted_form(given: Any) -> None:
    with pytest.raises(InvalidAddressError) as caught:
        parse_address(given)
    text = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert ACCEPTED_FORMS in text
    for form in ("host:port", "http://", "https://"):
        assert form in text
    if "@" not in str(given):  # a password, or what may be one, is not repeated
        assert repr(given) in text


def test_error_for_an_address_without_a_port_says_that_the_port_is_missing() -> None:
    with pytest.raises(InvalidAddressError, match="port is missing"):
        parse_address("localhost")


def test_error_for_an_address_does_not_contain_its_password() -> None:
    with pytest.raises(InvalidAddressError) as caught:
        parse_address("http://user:secret@localhost:50051")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:1", True),
        ("http://LOCALHOST:1", True),
        ("http://127.0.0.1:1", True),
        ("http://127.8.8.8", True),
        ("http://[::1]:1", True),
        ("http://0.0.0.0:1", False),
        ("http://10.0.0.1:1", False),
        ("https://localhost.example.com", False),
        ("https://127.0.0.1.example.com", False),
        ("http://[2001:db8::1]:1", False),
    ],
)
def test_function_is_loopback_returns_true_only_for_loopback_urls(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


@pytest.mark.parametrize(
    ("given", "tls", "url", "host"),
    [
        ("node-7", False, "http://node-7:81", "node-7"),
        ("node-7.example.com", True, "https://node-7.example.com:81", "node-7.example.com"),
        (" 10.0.0.7 ", False, "http://10.0.0.7:81", "10.0.0.7"),
        ("fd00::7", False, "http://[fd00::7]:81", "fd00::7"),
        ("forwarded:9000", True, "https://forwarded:9000", "forwarded"),
        ("[fd00::7]:9000", False, "http://[fd00::7]:9000", "fd00::7"),
        ("https://iris.example.com/cluster/", False, "https://iris.example.com/cluster", "iris.example.com"),
        ("http://10.0.0.7:9000", True, "http://10.0.0.7:9000", "10.0.0.7"),
    ],
)
def test_advertised_address_is_accepted(given: str, tls: bool, url: str, host: str) -> None:
    assert advertised(given, 81, tls=tls) == (url, host)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("0.0.0.0", "all addresses of a machine"),
        ("::", "all addresses of a machine"),
        ("[::]:80", "all addresses of a machine"),
        ("http://0.0.0.0:80", "all addresses of a machine"),
        ("node-7:0", "a client cannot connect to port 0"),
        ("http://node-7:0", "a client cannot connect to port 0"),
        ("", "the address has none of these forms"),
        ("8080", "the host is missing"),
        ("two words", "the address has none of these forms"),
        ("ftp://node-7", "the address has none of these forms"),
    ],
)
def test_invalid_advertised_address_is_refused(given: str, why: str) -> None:
    with pytest.raises(InvalidAddressError, match="expected 'host', 'host:port', ") as caught:
        advertised(given, 81, tls=False)
    assert why in str(caught.value)


def test_function_is_wildcard_returns_true_only_for_wildcard_hosts() -> None:
    assert [is_wildcard(host) for host in ("0.0.0.0", "::", "127.0.0.1", "::1", "localhost")] == [True, True] + [
        False
    ] * 3


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("HTTP://HOST", "http://host"),
        ("Https://Iris.Example.COM:8443/Path/", "https://iris.example.com:8443/Path"),
        ("LOCALHOST:50051", "http://localhost:50051"),
        ("My-Host:80", "http://my-host:80"),
        ("[FE80::1%Eth0]:50051", "http://[fe80::1%Eth0]:50051"),
        ("HTTP://[2001:DB8::1]:50051", "http://[2001:db8::1]:50051"),
    ],
)
def test_address_in_upper_case_gives_the_same_url_as_in_lower_case(given: str, url: str) -> None:
    assert parse_address(given) == url
    assert parse_address(url) == url


def test_advertised_address_in_upper_case_gives_the_same_url_as_in_lower_case() -> None:
    assert advertised("MyHost", 50051, tls=False) == ("http://myhost:50051", "myhost")
    assert advertised("HTTPS://MyHost:1", 50051, tls=True) == ("https://myhost:1", "myhost")
    assert advertised("MyHost:1", 50051, tls=False) == ("http://myhost:1", "myhost")


@pytest.mark.parametrize("host", ["LOCALHOST", "Localhost", "localhost."])
def test_loopback_name_in_any_case_is_loopback(host: str) -> None:
    assert is_loopback(f"http://{host}:50051")

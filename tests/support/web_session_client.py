"""Makes the calls of the page as a browser makes them, without a browser: with Origin, cookies and their paths."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from http.cookies import SimpleCookie
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

T = TypeVar("T")
SERVICE = "iris.cluster.ControllerService"


class SessionClient:
    """A program that makes the calls of a page at a cluster, as a browser that is at this page makes them.

    Args:
        address: The base URL of the page, without a slash at its end.
        verify: The TLS context, or whether certificates are checked.

    Attributes:
        base: The base URL of the page.
        origin: The origin of the page.
        session_path: The path of the session below the page; empty before the browser has signed in.
        cookie: The secret of the session.
        set_cookie: The header with which the server has set the cookie last.
    """

    def __init__(self, address: str, verify: Any = True) -> None:
        parts = urlsplit(address)
        self.base = address
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.page_path = f"{parts.path}/"
        self.session_path = self.cookie = self.set_cookie = ""
        self._http = httpx.Client(verify=verify, trust_env=False, timeout=60)
        self._http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # This class keeps the cookie.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def sign_in_answer(self, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        """Call SignIn with the given fields and additional headers, and return the answer."""
        body = {"pagePath": self.page_path, "requestId": secrets.token_hex(16)} | {
            re.sub("_(.)", lambda found: found[1].upper(), name): value for name, value in fields.items()
        }
        return self._post(f"{self.base}/{SERVICE}/SignIn", body, headers)

    def sign_in(self, **fields: str) -> dict[str, Any]:
        """Sign in with a `code` or a `token`, and keep the cookie."""
        answer = self.sign_in_answer(**fields)
        assert answer.status_code == 200, answer.text
        self.set_cookie = answer.headers["set-cookie"]
        ((_, morsel),) = SimpleCookie(self.set_cookie).items()
        self.cookie = morsel.value
        found: dict[str, Any] = answer.json()
        self.session_path = found["sessionPath"]
        return found

    def post(self, method: str, body: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """Make a call in the session. A header with an empty value is left out."""
        return self._post(
            f"{self.base}/{self.session_path}/{SERVICE}/{method}",
            body or {},
            {"cookie": f"iris_session={self.cookie}", **(headers or {})},
        )

    def call(self, method: str, body: Any = None) -> Any:
        """Make a call in the session, and return its answer."""
        answer = self.post(method, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Follow a link of the page to a path in the session."""
        sent = {"cookie": f"iris_session={self.cookie}", "sec-fetch-site": "same-origin", **(headers or {})}
        return self._http.get(f"{self.base}/{self.session_path}/{path}", headers=sent)

    def sign_out(self) -> httpx.Response:
        """Sign out."""
        return self.post("SignOut")

    def until_answered(self, ask: Callable[[], T]) -> T:
        """Make a call again until it is answered."""
        while True:
            try:
                return ask()
            except httpx.TransportError:
                continue

    def _post(self, url: str, body: Any, headers: dict[str, str] | None) -> httpx.Response:
        sent = {"origin": self.origin, "content-type": "application/json", "sec-fetch-site": "same-origin"}
        sent |= headers or {}
        content = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self._http.post(url, content=content, headers={key: value for key, value in sent.items() if value})

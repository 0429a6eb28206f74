"""Single HTTP requests without a client of Iris."""

from __future__ import annotations

import base64
import http.client
import json
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from support.tokens import token

from iris.rpc import cluster_pb2


class Answer:
    """An HTTP answer."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The reason in the detail of an error."""
        (detail,) = self.document["details"]
        assert detail["type"] == "google.rpc.ErrorInfo"
        packed = base64.b64decode(detail["value"] + "===")
        return str(cluster_pb2.ErrorInfo.FromString(packed).reason)


def ask(address: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """Send one request with an admin's token. An underscore in the name of a header stands for a hyphen."""
    parts = urlsplit(address)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)) as connection:
        sent = {"authorization": f"Bearer {token()}"} | {name.replace("_", "-"): v for name, v in headers.items()}
        connection.request(method, path, body, sent)
        return Answer(connection.getresponse())

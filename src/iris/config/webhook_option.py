"""Defines the webhooks in the configuration of a cluster: the URLs to which the controller sends events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from iris.config.kinds import EVENTS, Kind, NamedMistakeError
from iris.errors import quoted

_KEYS = ("url", "events")


@dataclass(frozen=True, slots=True)
class WebhookOption:
    """One webhook, as a user gives it.

    Attributes:
        url: The URL that receives the events.
        events: The kinds of events to send. If no kinds are given, the kinds of the option `webhook_events` are sent.
    """

    url: str
    events: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.url


def _read_webhooks(value: object) -> tuple[WebhookOption, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError
    found = tuple(map(_read_webhook, value))
    if len({webhook.url for webhook in found}) < len(found):
        raise NamedMistakeError("the URL of a webhook must not be given twice: name all its events in one entry")
    return found


def _read_webhook(value: object) -> WebhookOption:
    if isinstance(value, WebhookOption):
        return value
    if isinstance(value, str):
        return WebhookOption(_read_url(value))
    if not isinstance(value, dict) or "url" not in value:
        raise ValueError
    for key in value:
        if key not in _KEYS:
            raise NamedMistakeError(f"unknown key {quoted(key)} of a webhook: the keys are {', '.join(_KEYS)}")
    return WebhookOption(_read_url(value["url"]), EVENTS.read(value.get("events", ())))


def _read_url(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or any(letter <= " " for letter in value):
        raise ValueError
    parts = urlsplit(value)
    # This check comes first, because the errors after other mistakes quote the URL.
    if parts.username is not None or parts.password is not None:
        raise NamedMistakeError(
            f"the URL of a webhook must not contain a user name or a password, got the URL of {parts.hostname}:"
            " the signature of each request proves the sender"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or parts.port == 0:
        raise ValueError
    return value


def _write_webhooks(webhooks: tuple[WebhookOption, ...]) -> list[Any]:
    return [
        {"url": webhook.url, "events": list(webhook.events)} if webhook.events else webhook.url for webhook in webhooks
    ]


WEBHOOKS = Kind(
    "URL",
    "URLs such as 'https://example.com/iris'; in a file also tables, such as"
    " {url = 'https://example.com/iris', events = ['job.failed']}",
    _read_webhooks,
    _write_webhooks,
    repeated=True,
)

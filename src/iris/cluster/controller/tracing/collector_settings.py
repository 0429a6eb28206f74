"""Reads the standard environment variables of OpenTelemetry that say where spans are sent, and how."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from iris.errors import InvalidArgumentError, quoted
from iris.rpc.address import is_loopback_host
from iris.rpc.http.tls import ClientTls
from iris.versions import VERSION

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_DEFAULT_TIMEOUT_S = 10.0
# The longest accepted timeout. A longer timeout is probably meant in milliseconds, which some programs expect, so the
# default is used.
_LONGEST_TIMEOUT_S = 600.0
_COMPRESSIONS = ("gzip", "deflate", "none")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """Where spans are sent, and how.

    Attributes:
        url: The URL to which spans are sent.
        headers: Headers of each request, which may contain a secret key of the collector.
        timeout_s: How long one request may take, in seconds.
        compression: How requests are compressed: gzip, deflate or none.
        tls: Which https servers are trusted, and the certificate of this client.
        resource: The attributes of this program in the traces, for example `service.name`.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float = _DEFAULT_TIMEOUT_S
    compression: str = "none"
    tls: ClientTls = field(default_factory=ClientTls)
    resource: Mapping[str, str] = field(default_factory=dict)


def read_settings(endpoint: str, environment: Mapping[str, str] = os.environ) -> CollectorSettings:
    """Return the settings from the environment variables of OpenTelemetry.

    A variable that concerns only traces, such as `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, wins over the general variable.
    If the URL cannot be used, an error is raised. If another setting cannot be used, the log reports the setting, and
    the default applies, as OpenTelemetry's specification requires.

    Args:
        endpoint: The base URL of the collector, to which `/v1/traces` is added. If the string is empty, the environment
            variables name the collector.
        environment: The environment variables, which may configure a collector.

    Raises:
        InvalidArgumentError: The URL of the collector is invalid.
    """
    url = _url(endpoint, environment)
    return CollectorSettings(
        url,
        _headers(environment),
        _timeout_s(environment),
        _compression(environment, url),
        ClientTls(
            _value("CERTIFICATE", environment),
            _value("CLIENT_CERTIFICATE", environment),
            _value("CLIENT_KEY", environment),
        ),
        _resource(environment),
    )


def _value(name: str, environment: Mapping[str, str]) -> str:
    return (
        environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(f"OTEL_EXPORTER_OTLP_{name}") or ""
    ).strip()


def _url(endpoint: str, environment: Mapping[str, str]) -> str:
    own = "" if endpoint else environment.get(ENDPOINT_VARIABLES[0], "")
    base = endpoint or environment.get(ENDPOINT_VARIABLES[1], "")
    url = own or f"{base.rstrip('/')}/v1/traces"
    source = "otlp_endpoint" if endpoint else ENDPOINT_VARIABLES[0] if own else ENDPOINT_VARIABLES[1]
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_valid = is_valid and not any(map(str.isspace, url))
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidArgumentError(
            f"{source} must be the URL of an OpenTelemetry collector, such as 'http://localhost:4318',"
            f" got {quoted(endpoint or own or base)}"
        )
    return url


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _pairs(_value("HEADERS", environment), "OTEL_EXPORTER_OTLP_HEADERS"):
        if name.isascii() and name.replace("-", "").replace("_", "").isalnum() and value.isprintable():
            found[name.lower()] = value
        else:
            _log.warning("a header in OTEL_EXPORTER_OTLP_HEADERS has an invalid name or value, and is not sent")
    return found


def _timeout_s(environment: Mapping[str, str]) -> float:
    text = _value("TIMEOUT", environment)
    try:
        timeout_s = float(text or _DEFAULT_TIMEOUT_S)
    except ValueError:
        timeout_s = 0.0
    if 0 < timeout_s <= _LONGEST_TIMEOUT_S:
        return timeout_s
    _log.warning(
        "OTEL_EXPORTER_OTLP_TIMEOUT must be a number of seconds above 0 and up to 600, got %s: using 10", quoted(text)
    )
    return _DEFAULT_TIMEOUT_S


def _compression(environment: Mapping[str, str], url: str) -> str:
    # By default, requests to a collector on this machine are not compressed, because compression costs more time than
    # it saves.
    default = "none" if is_loopback_host(urlsplit(url).hostname or "") else "gzip"
    given = _value("COMPRESSION", environment).lower()
    if given and given not in _COMPRESSIONS:
        _log.warning("OTEL_EXPORTER_OTLP_COMPRESSION must be %s, got %s", " or ".join(_COMPRESSIONS), quoted(given))
        return default
    return given or default


def _resource(environment: Mapping[str, str]) -> dict[str, str]:
    resource = {"service.name": "iris", "service.version": VERSION}
    resource |= dict(_pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES"))
    if name := environment.get("OTEL_SERVICE_NAME", "").strip():
        resource["service.name"] = name
    return resource


def _pairs(text: str, variable: str) -> list[tuple[str, str]]:
    """Return the pairs in a text such as `key1=value1,key2=value2`, whose values are percent-encoded."""
    pairs = []
    for item in filter(None, map(str.strip, text.split(","))):
        key, equals, value = item.partition("=")
        if equals and key.strip():
            pairs.append((key.strip(), unquote(value.strip())))
        else:
            # The log does not show the invalid pair, because the pair may contain a secret.
            _log.warning("%s must have the form 'key1=value1,key2=value2': an item without '=' is left out", variable)
    return pairs

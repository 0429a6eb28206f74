"""Which names are accepted, by the client and by a server that does not trust it."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator

import pytest
from support.cluster import unique

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.submission.sizes import check_worker
from iris.cluster.names import check_job_name, check_label, check_name, check_port_name, find_unseen
from iris.errors import InvalidArgumentError, ResourceExhaustedError
from iris.rpc import cluster_connect
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.calls import call
from iris.rpc.http.client.client_transport import HttpTransport
from iris.rpc.peer import Peer

ACCEPTED = ["x", "train model é", "学習", "обучение", "ﷺ", "a  b", "🚀", "@", "c@1", "..", "x" * 200, "\ue0a0 branch"]
REFUSED = {
    "": "must not be empty",
    " ": "begins or ends with a space",
    " a": "begins or ends with a space",
    "a ": "begins or ends with a space",
    "\u200b": "the invisible character U+200B (ZERO WIDTH SPACE)",
    "a\u200bb": "the invisible character U+200B (ZERO WIDTH SPACE)",
    "\u3164": "the invisible character U+3164 (HANGUL FILLER)",
    "a\u115f": "the invisible character U+115F (HANGUL CHOSEONG FILLER)",
    "\uffa0": "the invisible character U+FFA0 (HALFWIDTH HANGUL FILLER)",
    "\u2800": "the invisible character U+2800 (BRAILLE PATTERN BLANK)",
    "a\ufeff": "the invisible character U+FEFF (ZERO WIDTH NO-BREAK SPACE)",
    "a\u00adb": "the invisible character U+00AD (SOFT HYPHEN)",
    "a\u200db": "the invisible character U+200D (ZERO WIDTH JOINER)",
    "a\u034fb": "the invisible character U+034F (COMBINING GRAPHEME JOINER)",
    "a\ufe0f": "the invisible character U+FE0F (VARIATION SELECTOR-16)",
    "a\U000e0041": "the invisible character U+E0041 (TAG LATIN CAPITAL LETTER A)",
    "a\U000e0fff": "the invisible character U+E0FFF",
    "a\u2065b": "the invisible character U+2065",
    "\u202ea": "the invisible character U+202E (RIGHT-TO-LEFT OVERRIDE)",
    "\u00a0": "the space U+00A0 (NO-BREAK SPACE)",
    "a\u3000b": "the space U+3000 (IDEOGRAPHIC SPACE)",
    "a\tb": "the control character U+0009",
    "a\nb": "the control character U+000A",
    "a\x85b": "the control character U+0085",
    "a\u2028b": "the line separator U+2028 (LINE SEPARATOR)",
    "\u0301a": "begins with the combining character U+0301",
    "cafe\u0301": "not in Unicode's normal form C",
    "\u212b": "not in Unicode's normal form C",
    "caf\udce9": "can be encoded in UTF-8",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_name_of_visible_characters_is_accepted(name: str) -> None:
    check_job_name(name)
    for kind in ("endpoint", "worker", "token"):
        check_name(kind, name)


@pytest.mark.parametrize(("name", "fault"), REFUSED.items(), ids=ascii)
def test_misleading_name_is_refused_and_the_error_shows_the_character(name: str, fault: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_job_name(name)
    assert fault in str(caught.value)


def test_every_character_that_unicode_ignores_by_default_is_refused() -> None:
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x0600, 0x070F, *range(0x2060, 0x2070), *range(0xFFF0, 0xFFFC)):
        assert find_unseen(f"a{chr(code)}b"), hex(code)
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Zs") and character != " ":
            assert find_unseen(f"a{character}b"), hex(code)


def test_name_over_200_bytes_is_too_long() -> None:
    with pytest.raises(ResourceExhaustedError, match="202 bytes in UTF-8, over the limit of 200"):
        check_job_name("é" * 101)


@pytest.mark.parametrize("name", ["h\u200bttp", "\uff48ttp", "http ", "\u3164"])
def test_port_name_or_machine_label_with_non_ascii_characters_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="not a port name"):
        check_port_name(name)
    with pytest.raises(InvalidArgumentError, match="not a label"):
        check_label(name, "a")
    with pytest.raises(InvalidArgumentError, match="not a label"):
        check_label("a", name)


@pytest.mark.parametrize("name", ["", " w", "w\u200b", "\u3164", "cafe\u0301"], ids=ascii)
def test_worker_with_a_misleading_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="worker"):
        check_worker(pb.Controller.RegisterWorkerRequest(worker_id=name, address="http://127.0.0.1:9"))


# Through client and server. Requests that are made by hand pass the client unseen, as those of another client do.

SENDABLE = [name for name in REFUSED if "\udce9" not in name]


@pytest.fixture
def stub(cluster: RemoteClusterClient) -> Iterator[cluster_connect.ControllerServiceClientSync]:
    """A stub of the shared cluster that checks nothing."""
    transport = HttpTransport(cluster.controller_address)
    yield cluster_connect.ControllerServiceClientSync(
        cluster.controller_address,
        accept_compression=(),
        send_compression=None,
        http_client=transport.connect_client(),
        interceptors=(BearerInterceptor(cluster.token),),
    )
    transport.close()


@pytest.mark.parametrize("name", SENDABLE, ids=ascii)
def test_misleading_job_name_is_refused_by_client_and_server(client: IrisClient, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="name"):
        client.run(["true"], name=name)
    with pytest.raises(InvalidArgumentError, match="name"):
        client.cluster.launch_job(pb.Controller.LaunchJobRequest(name=name, command=["true"]))


@pytest.mark.parametrize("name", SENDABLE, ids=ascii)
def test_misleading_endpoint_name_or_address_is_refused_by_client_and_server(
    cluster: RemoteClusterClient, stub: cluster_connect.ControllerServiceClientSync, name: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="name"):
        cluster.register_endpoint(name, "here:80")
    with pytest.raises(InvalidArgumentError, match="name"):
        cluster.lookup_endpoint(name)
    peer = Peer(cluster.controller_address, "the controller")
    request = pb.Controller.RegisterEndpointRequest(name=name, address="here:80")
    with pytest.raises(InvalidArgumentError, match="name"):
        call(stub.register_endpoint, request, peer)
    if find_unseen(name) or not name:
        request = pb.Controller.RegisterEndpointRequest(name=unique("endpoint"), address=name)
        with pytest.raises(InvalidArgumentError, match="needs an address"):
            call(stub.register_endpoint, request, peer)


@pytest.mark.parametrize("name", ["学習 é", "c@1", "🚀"])
def test_job_and_endpoint_with_a_name_in_any_alphabet_are_found(client: IrisClient, name: str) -> None:
    name = f"{unique('named')} {name}"
    job = client.run(["true"], name=name)
    assert job.job_id == name
    client.wait(name, timeout=60)
    client.unregister_endpoint(client.register_endpoint(name, "here:80"))

"""The parts of libraries that are not public and that Iris uses all the same.

`pyproject.toml` caps the version of each library. If a new release changes one of these parts, a test here fails with
the name of the part, before the release can change the behaviour of Iris without an error.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import tomllib
from pathlib import Path

import cloudpickle
import pytest
import uvicorn
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import Settings
from packaging.requirements import Requirement
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from iris.rpc.http.server.http1_connection import Http1Connection

CAPPED = ("cloudpickle", "connectrpc", "h2", "pyqwest", "ray", "uvicorn")


def requirements() -> dict[str, Requirement]:
    """Return what this distribution requires, by the names of the packages."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return {requirement.name: requirement for requirement in map(Requirement, texts)}


@pytest.mark.parametrize("name", CAPPED)
def test_library_whose_private_parts_iris_uses_is_installed_within_its_version_limit(name: str) -> None:
    requirement = requirements()[name]
    assert any(one.operator in ("<", "==", "~=") for one in requirement.specifier), str(requirement)
    installed = importlib.metadata.version(name)
    assert requirement.specifier.contains(installed), f"{name} {installed} is installed, required: {requirement}"


def test_uvicorn_still_calls_the_methods_that_iris_overrides() -> None:
    overridden = {
        "connection_lost",
        "connection_made",
        "data_received",
        "on_body",
        "on_header",
        "on_headers_complete",
        "on_message_begin",
        "on_message_complete",
        "on_response_complete",
        "on_url",
        "send_400_response",
        "_start_asgi_task",
    }
    release = f"uvicorn {importlib.metadata.version('uvicorn')}"
    for name in overridden:
        theirs, ours = getattr(HttpToolsProtocol, name, None), getattr(Http1Connection, name)
        assert theirs is not None, f"{release} has no HttpToolsProtocol.{name}"
        assert list(inspect.signature(theirs).parameters) == list(inspect.signature(ours).parameters), (release, name)
    source = inspect.getsource(HttpToolsProtocol)
    for call in ("self._start_asgi_task(", "self.send_400_response(", "self._unset_keepalive_if_required("):
        assert call in source, f"{release} no longer calls {call})"


def test_uvicorn_still_calls_the_methods_of_its_server_that_iris_overrides() -> None:
    release = f"uvicorn {importlib.metadata.version('uvicorn')}"
    source = inspect.getsource(uvicorn.Server)
    for call in ("await self.main_loop()", "await self.on_tick(counter)", "self.capture_signals()"):
        assert call in source, f"{release} no longer calls {call}"
    assert "if counter % 10 == 0" in inspect.getsource(uvicorn.Server.on_tick), f"{release} counts ticks differently"


def test_uvicorn_still_has_the_private_attributes_that_iris_uses() -> None:
    source = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("response_complete", "response_started", "disconnected", "message_event"):
        assert f"self.{name} " in source, f"uvicorn {importlib.metadata.version('uvicorn')}: no {name}"


def test_h2_still_has_the_parts_that_its_documentation_does_not_promise() -> None:
    release = f"h2 {importlib.metadata.version('h2')}, hpack {importlib.metadata.version('hpack')}"
    connection = H2Connection(H2Configuration(client_side=False))
    assert connection.decoder.header_table.dynamic_entries is not None, release
    assert connection.decoder.max_allowed_table_size == connection.decoder.header_table.maxsize, release
    assert isinstance(connection.local_settings, Settings), release
    assert (connection.highest_inbound_stream_id, connection.streams) == (0, {}), release
    assert (connection.outbound_flow_control_window, connection.max_outbound_frame_size) == (65535, 16384), release
    assert len(connection._closed_streams) == 0, release
    assert connection._closed_streams._size_limit == H2Connection.MAX_CLOSED_STREAMS, release


def test_ray_still_has_the_private_functions_that_iris_uses() -> None:
    release = f"ray {importlib.metadata.version('ray')}"
    from ray._private import services, state
    from ray.experimental import internal_kv

    assert "addr" in inspect.signature(services.canonicalize_bootstrap_address_or_die).parameters, release
    for name in ("actor_table", "available_resources_per_node"):
        assert callable(getattr(state.state, name)), (release, name)
    for name in ("_internal_kv_get", "_internal_kv_put", "_internal_kv_del"):
        assert "namespace" in inspect.signature(getattr(internal_kv, name)).parameters, (release, name)


def test_cloudpickle_still_has_the_private_functions_that_iris_uses() -> None:
    release = f"cloudpickle {importlib.metadata.version('cloudpickle')}"
    for name in (
        "_class_setstate",
        "_function_setstate",
        "_make_function",
        "_make_skeleton_class",
        "_make_skeleton_enum",
        "dynamic_subimport",
    ):
        assert callable(getattr(cloudpickle.cloudpickle, name, None)), f"{release} has no {name}"
    assert hasattr(cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID, "get"), release

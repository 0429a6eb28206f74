"""The driver process of the Ray engine: `python -m iris.cluster.engine.ray.driver`. The engine starts this process, and
the process calls Ray.

The code that uses Ray runs in a separate process for three reasons. The client library of Ray ends its process when the
head of the Ray cluster is unreachable for a minute. The library replaces signal handlers. Calls to Ray may hang. The
engine and the driver exchange lines of JSON. The driver reads commands from stdin and executes them in order. It writes
answers and changes of state to stdout. While Ray answers, the driver writes a line at least every half second.
Therefore silence means that Ray does not answer. The driver ends as soon as its stdin is closed.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iris.cluster.engine.ray.placement_groups import RayGangs

_REFRESH_S = 0.5
_CONNECT_S = 5.0

Json = dict[str, Any]
_Work = Callable[[], None]


class _Wire:
    """Writes the driver's messages to the engine. All other output of the driver process goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._state: Json = {}

    def send(self, message: Json) -> None:
        """Write one message as a line of JSON."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def send_state(self, state: Json) -> None:
        """Send the state if it has changed. Otherwise send a heartbeat, which shows that Ray has answered."""
        self.send({"beat": True} if state == self._state else {"state": state})
        self._state = state


def main() -> None:
    """Connect to Ray, then execute commands and report the state until stdin is closed.

    The driver process works in this way:
    1. The first line of stdin contains Ray's address and the arguments of workers.
    2. Commands and queries of Ray run one after the other. A call that hangs delays all later ones.
    """
    wire = _Wire()
    setup = json.loads(sys.stdin.readline() or "null")
    if setup is None:
        return
    work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
    orders: queue.SimpleQueue[Json] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(orders, work), daemon=True).start()
    try:
        _connect(setup["ray_address"], setup["namespace"])
        from iris.cluster.engine.ray.placement_groups import RayGangs

        gangs = RayGangs(setup["cluster_id"], setup["arguments"], setup["lease_s"], work.put)
        state = gangs.refresh()
        wire.send({"ready": _addresses()})
        wire.send_state(state)
    except Exception as error:  # noqa: BLE001 - The engine must receive the cause, whatever the exception is.
        traceback.print_exc()
        wire.send({"failed": _first_line(error)})
        os._exit(1)
    while True:
        _run_all(work, gangs.next_refresh_s(_REFRESH_S))
        while not orders.empty():
            _execute(orders.get(), gangs, wire)
        try:
            wire.send_state(gangs.refresh())
        except Exception:  # noqa: BLE001 - If Ray does not answer, the engine notices the silence of the driver.
            traceback.print_exc()


def _run_all(work: queue.SimpleQueue[_Work], timeout_s: float) -> None:
    try:
        work.get(timeout=timeout_s)()
        while True:
            work.get_nowait()()
    except queue.Empty:
        pass


def _read(orders: queue.SimpleQueue[Json], work: queue.SimpleQueue[_Work]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
        work.put(lambda: None)
    os._exit(0)


def _execute(order: Json, gangs: RayGangs, wire: _Wire) -> None:
    from iris.cluster.engine.ray.placement_groups import RejectedError

    number, verb, arguments = order["id"], order["do"], order["with"]
    try:
        getattr(gangs, verb)(**arguments)
        # The state is sent before the answer, so that the engine knows the command's effect when the answer arrives.
        wire.send_state(gangs.refresh())
        wire.send({"id": number})
    except RejectedError as error:
        wire.send({"id": number, "rejected": str(error)})
    except Exception as error:  # noqa: BLE001 - The engine receives the exception as the answer.
        traceback.print_exc()
        wire.send({"id": number, "failed": _first_line(error)})


def _connect(address: str, namespace: str) -> None:
    import logging

    import ray
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        resolved = canonicalize_bootstrap_address_or_die(address)
    except ConnectionError as error:
        raise ConnectionError(
            "Ray does not run on this machine: start it ('ray start --head', or 'ray start --address HOST:PORT' to join"
            " a running Ray cluster), or pass the address of a cluster's head with --ray-address HOST:PORT"
        ) from error
    host, _, port = resolved.rpartition(":")
    try:  # A wrong address is detected before Ray connects, because Ray itself would retry for a minute or more.
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {resolved}: {error.strerror or error}") from error
    try:
        ray.init(address=resolved, namespace=namespace, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"Ray at {resolved} refused the connection: {_first_line(error)} (if the Ray cluster requires a token, set"
            " RAY_AUTH_MODE and RAY_AUTH_TOKEN here as on its machines)"
        ) from error


def _addresses() -> list[str]:
    import ray

    return sorted({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


if __name__ == "__main__":
    main()

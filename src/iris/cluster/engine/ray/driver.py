"""The process that talks with Ray: `python -m iris.cluster.engine.ray.driver`. The Ray engine (engine.py) starts it.

Ray ends the process that it runs in when its head has been away for a minute, takes over signals, and its calls may
hang. So it has a process of its own, which is spoken to by lines of JSON: orders come on stdin, one after the other,
and what is answered or has changed goes to stdout. It says something at least every half second while Ray answers, so
who hears nothing knows that it does not. It ends with its stdin, whatever it is doing.
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

_LOOK_S = 0.5
_CONNECT_S = 5.0

Json = dict[str, Any]
_Work = Callable[[], None]


class _Wire:
    """What goes to the engine. Whatever else is printed goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._state: Json = {}

    def say(self, message: Json) -> None:
        """One line."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def say_state(self, state: Json) -> None:
        """What there is, if it is news; in any case that Ray has answered."""
        self.say({"beat": True} if state == self._state else {"state": state})
        self._state = state


def main() -> None:
    """1. The first line says where Ray is, and what workers are to be told.
    2. Orders, and looks at Ray, one after the other: one that hangs keeps the others waiting.
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
        state = gangs.look()
        wire.say({"ready": _addresses()})
        wire.say_state(state)
    except Exception as error:  # noqa: BLE001 - whatever it is, the engine has to hear why
        traceback.print_exc()
        wire.say({"failed": _words(error)})
        os._exit(1)
    while True:
        _take_all(work, gangs.next_look_s(_LOOK_S))
        while not orders.empty():
            _obey(orders.get(), gangs, wire)
        try:
            wire.say_state(gangs.look())
        except Exception:  # noqa: BLE001 - Ray does not answer: nothing is said of it until it does
            traceback.print_exc()


def _take_all(work: queue.SimpleQueue[_Work], timeout_s: float) -> None:
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


def _obey(order: Json, gangs: RayGangs, wire: _Wire) -> None:
    from iris.cluster.engine.ray.placement_groups import RejectedError

    number, verb, arguments = order["id"], order["do"], order["with"]
    try:
        getattr(gangs, verb)(**arguments)
        wire.say_state(gangs.look())  # before the answer: who has it finds what it has asked for
        wire.say({"id": number})
    except RejectedError as error:
        wire.say({"id": number, "rejected": str(error)})
    except Exception as error:  # noqa: BLE001 - it goes to who has ordered it
        traceback.print_exc()
        wire.say({"id": number, "failed": _words(error)})


def _connect(address: str, namespace: str) -> None:
    import logging

    import ray
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        resolved = canonicalize_bootstrap_address_or_die(address)
    except ConnectionError as error:
        raise ConnectionError(
            "no Ray runs on this machine: start one ('ray start --head', or with --address to join one that runs),"
            " or give the address of its head (--ray-address HOST:PORT)"
        ) from error
    host, _, port = resolved.rpartition(":")
    try:  # first: Ray itself would try for a minute or more
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {resolved}: {error.strerror or error}") from error
    try:
        ray.init(address=resolved, namespace=namespace, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"Ray answers at {resolved}, but does not take us: {_words(error)} (where it wants a token, RAY_AUTH_MODE"
            " and RAY_AUTH_TOKEN have to be set as on its machines)"
        ) from error


def _addresses() -> list[str]:
    import ray

    return sorted({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


if __name__ == "__main__":
    main()

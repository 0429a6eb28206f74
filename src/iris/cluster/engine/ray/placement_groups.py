"""The gangs of one cluster on Ray, as the driver process sees and steers them; one thread owns all of it.

A gang is a detached placement group, with a detached holder (slot_actor.py) for each bundle, both made at once: while
the group waits its holders do, and hold nothing. Found again they are by their names.

1. Room is held when Ray says that the group is created. Where is written down then, in Ray's own key-value store, and
   only after that is any worker started. So of a group without such a record nothing ever ran, and what it lacks is
   made; what is not as its record says has been moved by Ray, or is lost, and the gang is BROKEN for good.
2. The end of a worker is told by its holder, when nothing of it is left. That of a holder is told by Ray; where its
   process has died on a machine that lives, its worker is killed at once, and `lost` once nothing of it is left. What
   died with its machine, as Ray sees it, may live on behind a broken network, and is not `lost`.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
import ray.exceptions
from ray._private.state import state as ray_state
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.experimental import internal_kv
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from iris.cluster.engine.ray.names import gang_of, group_of, namespace_of, worker_of
from iris.cluster.engine.ray.slot_actor import Holder, end_workers
from iris.cluster.worker.supervision.fork_client import is_gone

_KILLED_S = 0.5  # from the death of a holder until its worker is gone, most likely
_LOOK_AGAIN_S = 1.0
_STOP_S = 20.0
_END_TEMPLATES_S = 10.0
_SHOWN = 300  # characters of what Ray says
_LEAST = 0.0001  # of a machine's own resource: what needs nothing else
_STRATEGIES = {"any": "PACK", "spread": "STRICT_SPREAD", "together": "STRICT_PACK"}
_WHY_WAITING = {
    "NO_RESOURCES": "Ray has no room for all of it now",
    "INFEASIBLE": "no machines that Ray has now could ever hold it",
}
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

Json = dict[str, Any]
# Calls something later in the thread that owns this.
Defer = Callable[[Callable[[], None]], None]


class RejectedError(Exception):
    """Ray will never place it."""


@dataclass(slots=True)
class _Gang:
    """A gang.

    Attributes:
        need: Of each slot: cores, bytes of memory, GPUs.
        holders: None: there is none, or it is not known.
        nodes: Ray's ids of the machines of its slots, once it is held.
        machines: Their names then.
        lost: Slots that are certainly dead.
        broken: Why; empty while it is not.
        waiting: Why it waits.
    """

    group: PlacementGroup
    slots: int
    need: list[int]
    holders: list[Any]
    nodes: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    broken: str = ""
    waiting: str = "Ray is looking for room"


class RayGangs:
    """See above. Whatever Ray raises comes out as it is: it could not be told, or not be done.

    Args:
        cluster_id: Whose gangs.
        arguments: Of each worker, without its id.
        lease_s: Of workers, see `Holder`.
        defer: Takes what other threads have to tell.
    """

    def __init__(self, cluster_id: str, arguments: Sequence[str], lease_s: float, defer: Defer) -> None:
        self._cluster_id = cluster_id
        self._namespace = namespace_of(cluster_id)
        self._arguments = list(arguments)
        self._lease_s = lease_s
        self._defer = defer
        self._gangs: dict[str, _Gang] = {}
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._used_nodes: set[str] = set()
        self._actor_class = ray.remote(Holder)

    def submit(self, gang_id: str, slots: int, need: Mapping[str, int], placement: str, labels: Json, on: Json) -> None:
        """Asks for room. `on`: of a gang that needs nothing: the id and the address of a machine for each slot."""
        if gang_id in self._gangs:
            return
        for key, value in labels.items():
            if not _PLAIN_VALUE.fullmatch(value):
                raise RejectedError(f"no machine of a Ray cluster can be labelled {key}={value}")
        bundle = {"CPU": need["cpu"], "memory": need["memory_bytes"], "GPU": need["gpu"]}
        bundles: list[dict[str, float]] = [{name: amount for name, amount in bundle.items() if amount}] * slots
        selectors = [dict(labels) for _ in range(slots)]
        if on:
            bundles = [{f"node:{address}": _LEAST} for address in on["addresses"]]
            selectors = [{"ray.io/node-id": node} for node in on["nodes"]]
        elif not need["cpu"] and (unused := [node["NodeID"] for node in ray.nodes() if not _is_used(node)]):
            for selector in selectors:
                selector["ray.io/node-id"] = f"!in({','.join(unused)})"
        try:
            group = placement_group(
                bundles,
                strategy=_STRATEGIES[placement],
                name=group_of(self._cluster_id, gang_id),
                lifetime="detached",
                bundle_label_selector=selectors,
            )
        except ValueError as error:
            raise RejectedError(f"Ray does not take it: {error}") from error
        gang = self._gangs[gang_id] = _Gang(group, slots, list(need.values()), [None] * slots)
        self._complete(gang_id, gang)
        group.ready().future().add_done_callback(lambda _: self._defer(lambda: None))

    def start(self, gang_id: str, credentials: Sequence[str]) -> None:
        """Has the workers of a gang that is held started; those that are already stay."""
        gang = self._gangs.get(gang_id)
        if gang is not None and gang.nodes:
            for holder, secret in zip(gang.holders, credentials, strict=True):
                if holder is not None:
                    holder.start.remote(secret)

    def release(self, gang_id: str) -> None:
        """Ends and gives back all of a gang."""
        gang = self._gangs.get(gang_id)
        if gang is not None:
            self._kill_holders(gang)
            remove_placement_group(gang.group)
            self._forget(gang_id)

    def close(self) -> None:
        """Ends all workers gracefully, gives everything back, and ends what workers were forked from."""
        self.look()
        stopping = [h.stop.remote() for gang in self._gangs.values() if gang.nodes for h in gang.holders if h]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_S)
        for gang_id in list(self._gangs):
            self.release(gang_id)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        end = ray.remote(num_cpus=0, max_retries=0)(end_workers)
        ends = [
            end.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(self._cluster_id)
            for node in self._used_nodes & alive
        ]
        if ends:
            ray.wait(ends, num_returns=len(ends), timeout=_END_TEMPLATES_S)

    def look(self) -> Json:
        """What there is now: gangs, and machines."""
        now = time.monotonic()
        due = [then for at, then in self._later if at <= now]
        self._later = [(at, then) for at, then in self._later if at > now]
        for then in due:
            then()
        nodes = [node for node in ray.nodes() if node["Alive"] and _is_used(node)]
        names = _names(nodes)
        found: dict[str, Json] = {}
        for info in placement_group_table().values():
            gang_id = gang_of(self._cluster_id, info["name"])
            if gang_id is not None and info["state"] != "REMOVED":
                found[gang_id] = info
        for gang_id in [gang_id for gang_id in self._gangs if gang_id not in found]:
            self._kill_holders(self._gangs[gang_id])
            self._forget(gang_id)
        for gang_id, info in found.items():
            if gang_id not in self._gangs:
                self._find_again(gang_id, info)
            self._judge(gang_id, info, names)
        return {"gangs": {gang_id: _status(gang_id, gang) for gang_id, gang in self._gangs.items()}} | {
            "machines": self._machines(nodes, names)
        }

    def next_look_s(self, longest_s: float) -> float:
        """In how many seconds to look again."""
        return min([longest_s, *(max(0.0, at - time.monotonic()) for at, _ in self._later)])

    # Gangs.

    def _complete(self, gang_id: str, gang: _Gang) -> None:
        """Makes the holders that are not there."""
        for slot in [slot for slot, holder in enumerate(gang.holders) if holder is None]:
            worker_id = worker_of(gang_id, slot)
            options = {
                "name": worker_id,
                "namespace": self._namespace,
                "lifetime": "detached",
                "num_cpus": 0,
                "num_gpus": gang.need[2],
                "max_restarts": 0,
                "max_task_retries": 0,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(gang.group, placement_group_bundle_index=slot),
            }
            gang.holders[slot] = self._actor_class.options(**options).remote(
                self._cluster_id, worker_id, self._arguments, self._lease_s
            )
            self._watch(gang_id, gang, slot)

    def _find_again(self, gang_id: str, info: Json) -> None:
        """One of an earlier life of the controller, or of this process."""
        group = PlacementGroup(ray.PlacementGroupID.from_hex(info["placement_group_id"]))
        bundles = info["bundles"]
        gang = _Gang(group, len(bundles), _amounts(next(iter(bundles.values()))), [])
        for slot in range(gang.slots):
            try:
                gang.holders.append(ray.get_actor(worker_of(gang_id, slot), self._namespace))
            except ValueError:
                gang.holders.append(None)
        record = internal_kv._internal_kv_get(gang_id, namespace=self._namespace)
        if record:
            gang.nodes, gang.machines = json.loads(record)
            for slot in [slot for slot, holder in enumerate(gang.holders) if holder is None]:
                gang.broken = f"worker {worker_of(gang_id, slot)} has ended"
                self._confirm(gang_id, gang, slot, self._find_dead(worker_of(gang_id, slot)))
        self._gangs[gang_id] = gang
        for slot, holder in enumerate(gang.holders):
            if holder is not None:
                self._watch(gang_id, gang, slot)
        if not record:
            self._complete(gang_id, gang)

    def _judge(self, gang_id: str, info: Json, names: Mapping[str, str]) -> None:
        gang = self._gangs[gang_id]
        if info["state"] == "CREATED":
            nodes = [info["bundles_to_node_id"][slot] for slot in range(gang.slots)]
            if not gang.nodes:
                machines = [names.get(node, node) for node in nodes]
                record = json.dumps([nodes, machines])
                internal_kv._internal_kv_put(gang_id, record, namespace=self._namespace)
                gang.nodes, gang.machines = nodes, machines
                self._used_nodes.update(nodes)
                group_broken = ""
            else:
                group_broken = "" if nodes == gang.nodes else "Ray has moved a part of it"
        elif gang.nodes or info["state"] == "RESCHEDULING":
            dead = sorted({name for node, name in zip(gang.nodes, gang.machines, strict=True) if node not in names})
            group_broken = f"as Ray sees it, machine {', '.join(dead)} is dead" if dead else "Ray has lost a part of it"
        else:
            gang.waiting = _WHY_WAITING.get(info["stats"]["scheduling_state"], gang.waiting)
            group_broken = ""
        self._used_nodes.update(gang.nodes)
        gang.broken = gang.broken or group_broken

    def _kill_holders(self, gang: _Gang) -> None:
        """First of all: holders of a group that is removed while it waits would go on waiting."""
        for holder in gang.holders:
            if holder is not None:
                ray.kill(holder)

    def _forget(self, gang_id: str) -> None:
        del self._gangs[gang_id]
        internal_kv._internal_kv_del(gang_id, namespace=self._namespace)

    def _watch(self, gang_id: str, gang: _Gang, slot: int) -> None:
        def tell(future: Any) -> None:
            error = future.exception()
            self._defer(partial(self._ended, gang_id, gang, slot, error, "" if error else str(future.result())))

        gang.holders[slot].watch.remote().future().add_done_callback(tell)

    def _ended(self, gang_id: str, gang: _Gang, slot: int, error: BaseException | None, how: str) -> None:
        """Of a slot, its worker, or its holder, or only the line to it."""
        if self._gangs.get(gang_id) is not gang:
            return
        worker_id = worker_of(gang_id, slot)
        if error is None:
            gang.broken = gang.broken or f"worker {worker_id} has ended: {how}"
            gang.lost.add(slot)
        elif isinstance(error, ray.exceptions.ActorDiedError):
            lines = [line for line in str(error).splitlines() if line and not line.startswith("\t")]
            why = lines[1] if len(lines) > 1 else repr(error)
            gang.broken = (
                gang.broken
                or f"the holder of worker {worker_id} has died: {textwrap.shorten(why, _SHOWN, placeholder=' …')}"
            )
            self._later.append((time.monotonic() + _KILLED_S, partial(self._holder_died, gang_id, gang, slot)))
        else:  # it cannot be told
            again = partial(self._watch_again, gang_id, gang, slot)
            self._later.append((time.monotonic() + _LOOK_AGAIN_S, again))

    def _watch_again(self, gang_id: str, gang: _Gang, slot: int) -> None:
        if self._gangs.get(gang_id) is gang:
            self._watch(gang_id, gang, slot)

    def _holder_died(self, gang_id: str, gang: _Gang, slot: int) -> None:
        if self._gangs.get(gang_id) is gang:
            self._confirm(gang_id, gang, slot, ray_state.actor_table(gang.holders[slot]._actor_id.hex()))

    def _confirm(self, gang_id: str, gang: _Gang, slot: int, actor: Json) -> None:
        """Has the machine of a holder that died looked at, again and again, until nothing of the worker is left."""
        if actor and actor["DeathCause"].HasField("creation_task_failure_context"):
            gang.lost.add(slot)  # it never began
        if not self._has_died_alone(actor):
            return

        def take(future: Any) -> None:
            if not future.exception() and future.result():
                gang.lost.add(slot)
            elif self._gangs.get(gang_id) is gang:
                again = partial(self._confirm, gang_id, gang, slot, actor)
                self._later.append((time.monotonic() + _LOOK_AGAIN_S, again))

        where = NodeAffinitySchedulingStrategy(actor["Address"]["NodeID"], soft=False)
        look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=where)(is_gone)
        found = look.remote(self._cluster_id, worker_of(gang_id, slot)).future()
        found.add_done_callback(lambda future: self._defer(partial(take, future)))

    def _find_dead(self, worker_id: str) -> Json:
        """The latest of that name that has died."""
        table = ray_state.actor_table(None).values()
        dead = [actor for actor in table if actor["Name"] == worker_id and actor["State"] == "DEAD"]
        return max(dead, key=lambda actor: float(actor["Timestamp"]), default={})

    def _has_died_alone(self, actor: Json) -> bool:
        """Whether a process was seen to end on a machine that lives."""
        if not actor:
            return False
        died = actor["DeathCause"].actor_died_error_context
        is_alive = any(node["NodeID"] == actor["Address"]["NodeID"] and node["Alive"] for node in ray.nodes())
        return bool(died.reason == ActorDiedErrorContext.WORKER_DIED and is_alive)

    # Machines.

    def _machines(self, nodes: Sequence[Json], names: Mapping[str, str]) -> list[Json]:
        available = ray_state.available_resources_per_node()
        tasks: Counter[str] = Counter()
        held: dict[str, list[int]] = {}
        for gang in self._gangs.values():
            tasks.update(gang.nodes)
            for node in gang.nodes:
                held[node] = [a + b for a, b in zip(held.get(node, [0, 0, 0]), gang.need, strict=True)]

        def free(node: Json) -> list[int]:
            """What Ray says, which is a moment old, but never what we hold ourselves."""
            ours = held.get(node["NodeID"], [0, 0, 0])
            said = _amounts(available.get(node["NodeID"], {}))
            total = _amounts(node["Resources"])
            return [max(0, min(a, b - c)) for a, b, c in zip(said, total, ours, strict=True)]

        return [
            {
                "name": names[node["NodeID"]],
                "node": node["NodeID"],
                "address": node["NodeManagerAddress"],
                "total": _amounts(node["Resources"]),
                "free": free(node),
                "tasks": tasks[node["NodeID"]],
                "labels": sorted([k, v] for k, v in node.get("Labels", {}).items() if k != "ray.io/node-id"),
            }
            for node in nodes
        ]


def _is_used(node: Json) -> bool:
    """A machine that has no cores to give, as heads often, is one that nothing is to run on."""
    return float(node["Resources"].get("CPU", 0)) > 0


def _names(nodes: Sequence[Json]) -> dict[str, str]:
    """What people call them, by Ray's id: its name for them, and more of those that share it."""
    shared = Counter(node["NodeName"] for node in nodes)
    return {
        node["NodeID"]: node["NodeName"] + (f"-{node['NodeID'][:8]}" if shared[node["NodeName"]] > 1 else "")
        for node in nodes
    }


def _amounts(resources: Mapping[str, float]) -> list[int]:
    return [math.floor(resources.get(name, 0) + 1e-6) for name in ("CPU", "memory", "GPU")]


def _status(gang_id: str, gang: _Gang) -> Json:
    if not gang.nodes and not gang.broken:
        return {"state": "WAITING", "reason": gang.waiting, "slots": [], "lost": []}
    slots = [[worker_of(gang_id, slot), machine] for slot, machine in enumerate(gang.machines)]
    state = "BROKEN" if gang.broken else "HELD"
    return {"state": state, "reason": gang.broken, "slots": slots, "lost": sorted(gang.lost)}

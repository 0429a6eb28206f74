"""Creates, watches, and removes the gangs of one cluster on Ray. All code runs in one thread of the driver process.

A gang is a detached placement group with one detached slot actor (slot_actor.py) for each bundle. The group and its
actors are created together. While the group waits, the actors wait as well and hold no resources. A later driver finds
the group and the actors by name.

Ray's reports decide the states of gangs and slots:
1. A gang has its slots once Ray reports the group as created. The driver then records the machine of each slot in Ray's
   key-value store, and starts the workers after that. Therefore a group without such a record has never run a worker,
   and missing actors can be created. If the group no longer matches its record, Ray has moved or lost a part of it, and
   the gang stays BROKEN.
2. A slot actor reports when its worker and all of the worker's processes have ended. Ray reports when an actor dies. If
   an actor's process dies on a machine that is alive, its worker is killed at once, and the slot is `lost` when none of
   the worker's processes is left. If Ray declares a machine dead, the machine may still be alive behind a broken
   network. Therefore its slots are not `lost`.
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
from iris.cluster.engine.ray.slot_actor import SlotActor, end_workers
from iris.cluster.worker.supervision.fork_client import is_gone
from iris.cores import MILLICORES

_KILLED_S = 0.5  # The seconds in which a worker usually ends after its slot actor has died.
_RETRY_S = 1.0
_STOP_S = 20.0
_END_TEMPLATES_S = 10.0
# Reasons that contain a message of Ray contain at most this many characters of the message.
_MAX_CAUSE = 300
# The amount that a slot without requested resources holds of the Ray resource that identifies its machine.
_LEAST = 0.0001
_STRATEGIES = {"any": "PACK", "spread": "STRICT_SPREAD", "together": "STRICT_PACK"}
_WHY_WAITING = {
    "NO_RESOURCES": "the Ray cluster has not enough free capacity",
    "INFEASIBLE": "the gang exceeds the capacity of the Ray cluster's present machines",
}
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

Json = dict[str, Any]
# Gets a function, and calls it later in the thread that owns the gangs.
Defer = Callable[[Callable[[], None]], None]


class RejectedError(Exception):
    """An error: Ray can never allocate the gang. The error text contains the reason."""


@dataclass(slots=True)
class _Gang:
    """The state of one gang.

    Attributes:
        group: Ray's placement group of the gang.
        slots: The number of slots of the gang.
        need: The CPU in millicores, the bytes of memory, and the GPUs of each slot.
        actors: The actor of each slot, or None if the actor is missing or unknown.
        nodes: Ray's id of each slot's machine. Empty until the gang has its slots.
        machines: The name of each slot's machine at the time of the allocation.
        lost: The positions of slots whose workers have certainly ended.
        broken: Why the gang is broken; empty if the gang is not broken.
        waiting: Why the gang waits; empty if the gang does not wait.
    """

    group: PlacementGroup
    slots: int
    need: list[int]
    actors: list[Any]
    nodes: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    broken: str = ""
    waiting: str = "Ray has not decided yet"


class RayGangs:
    """All gangs of one cluster on Ray. All methods may raise exceptions of Ray. Such an exception means that a call did
    not reach Ray or failed there.

    Args:
        cluster_id: The id of the cluster.
        arguments: The command line of each worker, without the worker's id.
        lease_s: The lease of workers in seconds, see `SlotActor`.
        defer: A function that schedules a call in the thread that owns this object. Callbacks in other threads use this
            function.
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
        self._actor_class = ray.remote(SlotActor)

    def submit(self, gang_id: str, slots: int, need: Mapping[str, int], placement: str, labels: Json, on: Json) -> None:
        """Create the placement group and the slot actors of a gang.

        Args:
            gang_id: The gang's id. A call with an id that exists already has no effect.
            slots: The number of slots of the gang.
            need: The resources of each slot: `cpu_millicores`, `memory_bytes`, and `gpu`, in this order.
            placement: The value of a `Placement`.
            labels: The labels that machines must have.
            on: The machines for a gang that needs no resources: `nodes` (Ray's ids) and `addresses`, one for each slot.

        Raises:
            RejectedError: Ray can never allocate the gang.
        """
        if gang_id in self._gangs:
            return
        for key, value in labels.items():
            if not _PLAIN_VALUE.fullmatch(value):
                raise RejectedError(f"a label of a Ray machine cannot have the value {value!r} (label {key!r})")
        bundle = {"CPU": need["cpu_millicores"] / MILLICORES, "memory": need["memory_bytes"], "GPU": need["gpu"]}
        bundles: list[dict[str, float]] = [{name: amount for name, amount in bundle.items() if amount}] * slots
        selectors = [dict(labels) for _ in range(slots)]
        if on:
            bundles = [{f"node:{address}": _LEAST} for address in on["addresses"]]
            selectors = [{"ray.io/node-id": node} for node in on["nodes"]]
        elif not need["cpu_millicores"] and (unused := [node["NodeID"] for node in ray.nodes() if not _is_used(node)]):
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
            raise RejectedError(f"Ray rejected the placement group: {error}") from error
        gang = self._gangs[gang_id] = _Gang(group, slots, list(need.values()), [None] * slots)
        self._complete(gang_id, gang)
        group.ready().future().add_done_callback(lambda _: self._defer(lambda: None))

    def start(self, gang_id: str, credentials: Sequence[str]) -> None:
        """Start the workers of a gang that has its slots. Workers that already run are unaffected."""
        gang = self._gangs.get(gang_id)
        if gang is not None and gang.nodes:
            for actor, secret in zip(gang.actors, credentials, strict=True):
                if actor is not None:
                    actor.start.remote(secret)

    def release(self, gang_id: str) -> None:
        """End the workers of a gang and remove its placement group."""
        gang = self._gangs.get(gang_id)
        if gang is not None:
            self._kill_actors(gang)
            remove_placement_group(gang.group)
            self._forget(gang_id)

    def close(self) -> None:
        """End all workers gracefully, release all gangs, and end the fork servers."""
        self.refresh()
        stopping = [
            actor.stop.remote() for gang in self._gangs.values() if gang.nodes for actor in gang.actors if actor
        ]
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

    def refresh(self) -> Json:
        """Query Ray, update all gangs, and return the state of all gangs and machines."""
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
            self._kill_actors(self._gangs[gang_id])
            self._forget(gang_id)
        for gang_id, info in found.items():
            if gang_id not in self._gangs:
                self._restore(gang_id, info)
            self._update(gang_id, info, names)
        return {"gangs": {gang_id: _status(gang_id, gang) for gang_id, gang in self._gangs.items()}} | {
            "machines": self._machines(nodes, names)
        }

    def next_refresh_s(self, longest_s: float) -> float:
        """Return the seconds until `refresh` is due again, at most `longest_s`."""
        return min([longest_s, *(max(0.0, at - time.monotonic()) for at, _ in self._later)])

    # Gangs.

    def _complete(self, gang_id: str, gang: _Gang) -> None:
        """Create the slot actors that are missing."""
        for slot in [slot for slot, actor in enumerate(gang.actors) if actor is None]:
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
            gang.actors[slot] = self._actor_class.options(**options).remote(
                self._cluster_id, worker_id, self._arguments, self._lease_s
            )
            self._watch(gang_id, gang, slot)

    def _restore(self, gang_id: str, info: Json) -> None:
        """Restore a gang that an earlier driver process created."""
        group = PlacementGroup(ray.PlacementGroupID.from_hex(info["placement_group_id"]))
        bundles = info["bundles"]
        gang = _Gang(group, len(bundles), _amounts(next(iter(bundles.values()))), [])
        for slot in range(gang.slots):
            try:
                gang.actors.append(ray.get_actor(worker_of(gang_id, slot), self._namespace))
            except ValueError:
                gang.actors.append(None)
        record = internal_kv._internal_kv_get(gang_id, namespace=self._namespace)
        if record:
            gang.nodes, gang.machines = json.loads(record)
            for slot in [slot for slot, actor in enumerate(gang.actors) if actor is None]:
                gang.broken = f"worker {worker_of(gang_id, slot)} has ended"
                self._confirm(gang_id, gang, slot, self._find_dead(worker_of(gang_id, slot)))
        self._gangs[gang_id] = gang
        for slot, actor in enumerate(gang.actors):
            if actor is not None:
                self._watch(gang_id, gang, slot)
        if not record:
            self._complete(gang_id, gang)

    def _update(self, gang_id: str, info: Json, names: Mapping[str, str]) -> None:
        """Update a gang from Ray's description of its placement group. `names` maps live nodes to machine names."""
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
                group_broken = "" if nodes == gang.nodes else "Ray has moved a part of the gang to another machine"
        elif gang.nodes or info["state"] == "RESCHEDULING":
            dead = sorted({name for node, name in zip(gang.nodes, gang.machines, strict=True) if node not in names})
            group_broken = (
                f"Ray reports as dead: machine {', '.join(dead)}" if dead else "Ray has lost a part of the gang"
            )
        else:
            gang.waiting = _WHY_WAITING.get(info["stats"]["scheduling_state"], gang.waiting)
            group_broken = ""
        self._used_nodes.update(gang.nodes)
        gang.broken = gang.broken or group_broken

    def _kill_actors(self, gang: _Gang) -> None:
        """Kill the slot actors of a gang. Call this method before the removal of the placement group. After the
        removal, the actors of a waiting group would never end.
        """
        for actor in gang.actors:
            if actor is not None:
                ray.kill(actor)

    def _forget(self, gang_id: str) -> None:
        del self._gangs[gang_id]
        internal_kv._internal_kv_del(gang_id, namespace=self._namespace)

    def _watch(self, gang_id: str, gang: _Gang, slot: int) -> None:
        def report(future: Any) -> None:
            error = future.exception()
            self._defer(partial(self._on_end, gang_id, gang, slot, error, "" if error else str(future.result())))

        gang.actors[slot].watch.remote().future().add_done_callback(report)

    def _on_end(self, gang_id: str, gang: _Gang, slot: int, error: BaseException | None, how: str) -> None:
        """Handle the result of waiting for a slot's worker. Either the worker has ended, or its slot actor has died, or
        the connection to Ray has failed.
        """
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
                or f"the actor of worker {worker_id} has died: {textwrap.shorten(why, _MAX_CAUSE, placeholder=' …')}"
            )
            self._later.append((time.monotonic() + _KILLED_S, partial(self._actor_died, gang_id, gang, slot)))
        else:  # Only the connection to Ray has failed, so the worker may still run, and the slot is not lost.
            again = partial(self._watch_again, gang_id, gang, slot)
            self._later.append((time.monotonic() + _RETRY_S, again))

    def _watch_again(self, gang_id: str, gang: _Gang, slot: int) -> None:
        if self._gangs.get(gang_id) is gang:
            self._watch(gang_id, gang, slot)

    def _actor_died(self, gang_id: str, gang: _Gang, slot: int) -> None:
        if self._gangs.get(gang_id) is gang:
            self._confirm(gang_id, gang, slot, ray_state.actor_table(gang.actors[slot]._actor_id.hex()))

    def _confirm(self, gang_id: str, gang: _Gang, slot: int, actor: Json) -> None:
        """After a slot actor has died, wait until no process of its worker is left. The check runs repeatedly on the
        actor's machine. Once no process is left, the slot is lost. If the machine is dead as well, the method checks
        nothing.
        """
        if actor and actor["DeathCause"].HasField("creation_task_failure_context"):
            gang.lost.add(slot)  # The slot actor never started. Therefore the worker of the slot never started either.
        if not self._has_died_alone(actor):
            return

        def apply(future: Any) -> None:
            if not future.exception() and future.result():
                gang.lost.add(slot)
            elif self._gangs.get(gang_id) is gang:
                again = partial(self._confirm, gang_id, gang, slot, actor)
                self._later.append((time.monotonic() + _RETRY_S, again))

        where = NodeAffinitySchedulingStrategy(actor["Address"]["NodeID"], soft=False)
        check = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=where)(is_gone)
        checked = check.remote(self._cluster_id, worker_of(gang_id, slot)).future()
        checked.add_done_callback(lambda future: self._defer(partial(apply, future)))

    def _find_dead(self, worker_id: str) -> Json:
        """Return Ray's record of the latest dead actor with this name, or an empty record."""
        table = ray_state.actor_table(None).values()
        dead = [actor for actor in table if actor["Name"] == worker_id and actor["State"] == "DEAD"]
        return max(dead, key=lambda actor: float(actor["Timestamp"]), default={})

    def _has_died_alone(self, actor: Json) -> bool:
        """Return whether the actor's process died on a machine that is alive."""
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
            """Return the free resources of a machine. The result is the amount that Ray reports as free, but at most
            the machine's total without the resources of this cluster's gangs. The limit is needed because Ray's report
            of free resources is slightly out of date.
            """
            ours = held.get(node["NodeID"], [0, 0, 0])
            reported = _amounts(available.get(node["NodeID"], {}))
            total = _amounts(node["Resources"])
            return [max(0, min(a, b - c)) for a, b, c in zip(reported, total, ours, strict=True)]

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
    """Return whether gangs may run on a machine of Ray. The head of a Ray cluster often offers no cores, and a machine
    without cores runs no gangs.
    """
    return float(node["Resources"].get("CPU", 0)) > 0


def _names(nodes: Sequence[Json]) -> dict[str, str]:
    """Return a unique readable name for each of Ray's node ids. The name is Ray's name of the node. If several nodes
    share this name, a part of the node id is added.
    """
    shared = Counter(node["NodeName"] for node in nodes)
    return {
        node["NodeID"]: node["NodeName"] + (f"-{node['NodeID'][:8]}" if shared[node["NodeName"]] > 1 else "")
        for node in nodes
    }


def _amounts(resources: Mapping[str, float]) -> list[int]:
    """Return an amount of Ray's resources as millicores, bytes of memory, and GPUs, rounded down."""
    units = {"CPU": MILLICORES, "memory": 1, "GPU": 1}
    return [math.floor(resources.get(name, 0) * unit + 1e-6) for name, unit in units.items()]


def _status(gang_id: str, gang: _Gang) -> Json:
    if not gang.nodes and not gang.broken:
        return {"state": "WAITING", "reason": gang.waiting, "slots": [], "lost": []}
    slots = [[worker_of(gang_id, slot), machine] for slot, machine in enumerate(gang.machines)]
    state = "BROKEN" if gang.broken else "HELD"
    return {"state": state, "reason": gang.broken, "slots": slots, "lost": sorted(gang.lost)}

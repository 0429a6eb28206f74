"""The stream of a cluster's state, while the first snapshot is being made."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.overview.cluster_watch import ClusterWatch
from iris.cluster.controller.storage.store import Store
from iris.rpc import cluster_pb2 as pb

Request = pb.Controller.WatchClusterRequest


class SlowView:
    """A view of a cluster with one machine, whose answers the test holds back."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()

    async def all_machines(self, most_waiting: int) -> tuple[list[Any], Any]:
        await self.answers.wait()
        return [pb.Controller.Machine(name="m")], pb.Controller.MachineQueue()

    async def all_workers(self) -> list[Any]:
        return []


class Status:
    """The state of a controller."""

    def message(self) -> Any:
        return pb.Controller.ClusterStatus()


def test_cluster_watcher_gets_empty_messages_until_the_first_snapshot_is_made(tmp_path: Path) -> None:
    async def run(journal: EventJournal) -> None:
        view = SlowView()
        slices = Slices()
        background = slices.in_background()
        watch = ClusterWatch(view, Status(), journal, background, slices.stream_turns, 0.01)  # type: ignore[arg-type]
        async with aclosing(watch.messages(Request(include_machines=True), is_admin=True)) as messages:
            for _ in range(3):
                assert (await anext(messages)).ByteSize() == 0
            view.answers.set()
            async for message in messages:
                if message.ByteSize():
                    break
            assert [machine.name for machine in message.machines] == ["m"]

    with closing(Store(tmp_path / "controller.db")) as store:
        asyncio.run(run(EventJournal(store)))

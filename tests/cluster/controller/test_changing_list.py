"""What a client receives of a list whose items change."""

from __future__ import annotations

from iris.cluster.controller.overview import changes
from iris.cluster.controller.overview.changes import ChangingList
from iris.rpc.cluster_pb2 import Controller


def updated(items: ChangingList[Controller.Machine], **alive: bool) -> None:
    machines = {name: Controller.Machine(name=name, alive=is_alive) for name, is_alive in alive.items()}
    items.update({name: (machine.SerializeToString(), machine) for name, machine in machines.items()})


def received(items: ChangingList[Controller.Machine], revision: int) -> tuple[list[str], list[str]]:
    changed, removed = items.since(revision)
    return [f"{one.name}{'+' if one.alive else '-'}" for one in changed], removed


def test_client_gets_the_whole_list_first_and_then_only_changes() -> None:
    items: ChangingList[Controller.Machine] = ChangingList()
    updated(items, b=True, a=True)
    assert items.is_unknown(-1)
    assert received(items, -1) == (["a+", "b+"], [])
    known = items.revision
    updated(items, a=True, b=True)
    assert items.revision == known
    assert not items.is_unknown(known)
    assert received(items, known) == ([], [])
    updated(items, a=False, c=True)
    assert received(items, known) == (["a-", "c+"], ["b"])
    assert received(items, -1) == (["a-", "c+"], [])


def test_list_item_that_is_added_again_no_longer_counts_as_removed() -> None:
    items: ChangingList[Controller.Machine] = ChangingList()
    updated(items, a=True, b=True)
    known = items.revision
    updated(items, a=True)
    updated(items, a=True, b=True)
    assert received(items, known) == (["b+"], [])


def test_client_that_watches_an_empty_list_gets_an_item_that_is_added_later() -> None:
    items: ChangingList[Controller.Machine] = ChangingList()
    updated(items)
    assert (received(items, -1), items.is_unknown(items.revision)) == (([], []), False)
    known = items.revision
    updated(items, a=True)
    assert received(items, known) == (["a+"], [])


def test_client_that_missed_too_many_removals_gets_the_whole_list() -> None:
    items: ChangingList[Controller.Machine] = ChangingList()
    updated(items, **{f"m{number}": True for number in range(changes._MAX_REMOVED + 1)})
    known = items.revision
    updated(items, last=True)
    assert items.is_unknown(known)
    assert not items.is_unknown(items.revision)

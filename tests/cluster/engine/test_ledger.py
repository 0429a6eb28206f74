"""What an engine leaves in its ledger for the next one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iris.cluster.engine.base import GangRequest, Resources, Slot
from iris.cluster.engine.local.ledger import Entry, Ledger
from iris.errors import ResourceExhaustedError


def entry(gang_id: str, *workers: str) -> Entry:
    slots = tuple(Slot(worker, worker, (number, number + 10)) for number, worker in enumerate(workers))
    gang = GangRequest(gang_id, len(slots), Resources.of(cpu=1, memory_bytes=2, gpu=2))
    return Entry(gang, slots, tuple(f"process of {worker}" for worker in workers))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def test_ledger_returns_held_slots_and_no_released_slots_after_a_restart(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.load() == []
    a, b, c = entry("a@0", "local-0", "local-1"), entry("b/ü@0", "local-0"), entry("c@0", "local-1")
    ledger.hold(a)
    ledger.hold(b)
    assert not path.exists(), "nothing is written before it is asked for"
    ledger.flush()
    ledger.hold(c)
    ledger.release("a@0")
    ledger.release("unknown@0")
    ledger.flush()
    assert Ledger(path).load() == [b, c]
    again = Ledger(path)
    again.load()
    again.release("b/ü@0")
    again.flush()
    assert Ledger(path).load() == [c]


def test_ledger_line_cut_by_a_killed_writer_is_ignored(path: Path) -> None:
    ledger = Ledger(path)
    ledger.load()
    ledger.hold(entry("a@0", "local-0"))
    ledger.flush()
    whole = path.read_bytes()
    ledger.hold(entry("b@0", "local-0"))
    ledger.flush()
    longer = path.read_bytes()
    for cut in range(len(whole), len(longer) - 1):
        path.write_bytes(longer[:cut])
        assert Ledger(path).load() == [entry("a@0", "local-0")]
    for rubbish in (b"\0" * 100, b"[]\n", b"{}\n", b'{"gang": "x"}\n', b"\xff\n"):
        path.write_bytes(whole + rubbish)
        after = Ledger(path)
        assert after.load() == [entry("a@0", "local-0")]
        after.hold(entry("c@0", "local-0"))
        after.flush()
        assert Ledger(path).load() == [entry("a@0", "local-0"), entry("c@0", "local-0")]


def test_ledger_with_many_released_gangs_is_rewritten_without_them(path: Path) -> None:
    ledger = Ledger(path)
    ledger.load()
    stays = entry("stays@0", "local-0")
    ledger.hold(stays)
    for number in range(5000):
        ledger.hold(entry(f"{number}@0", "local-0"))
        ledger.release(f"{number}@0")
        ledger.flush()
    assert len(path.read_text().splitlines()) < 1100
    assert Ledger(path).load() == [stays]


def test_ledger_continues_after_a_full_disk(path: Path) -> None:
    ledger = Ledger(path)
    ledger.load()
    ledger.hold(entry("a@0", "local-0"))
    ledger.flush()
    kept = path.rename(path.with_name("kept"))
    path.mkdir()  # nobody can write there now, not even root
    ledger.hold(entry("b@0", "local-0"))
    for _ in range(2):
        with pytest.raises(ResourceExhaustedError, match="cannot write"):
            ledger.flush()
    path.rmdir()
    os.rename(kept, path)
    with path.open("a") as file:
        file.write('{"gang": "b@')  # what a write left that had no room for all of it
    ledger.flush()
    assert Ledger(path).load() == [entry("a@0", "local-0"), entry("b@0", "local-0")]


def test_released_slots_are_written_to_the_ledger_file_later_than_allocated_slots(path: Path) -> None:
    ledger = Ledger(path)
    ledger.load()
    ledger.hold(entry("a@0", "local-0"))
    ledger.hold(entry("b@0", "local-0"))
    ledger.flush()
    kept = path.rename(path.with_name("kept"))
    path.mkdir()
    ledger.release("a@0")
    ledger.hold(entry("c@0", "local-0"))
    with pytest.raises(ResourceExhaustedError):
        ledger.flush()
    ledger.release("c@0")
    ledger.flush()  # what holds room is known: the controller may hear of it
    path.rmdir()
    os.rename(kept, path)
    ledger.flush()
    assert Ledger(path).load() == [entry("b@0", "local-0")]


def test_ledger_without_a_file_writes_nothing_to_the_disk(tmp_path: Path) -> None:
    ledger = Ledger(None)
    assert ledger.load() == []
    ledger.hold(entry("a@0", "local-0"))
    ledger.flush()
    ledger.release("a@0")
    ledger.remove()
    assert list(tmp_path.iterdir()) == []

"""The GPUs that the local engine may allocate."""

from __future__ import annotations

from pathlib import Path

import pytest

from iris.cluster.engine.base import GangRequest, Resources, Slot
from iris.cluster.engine.local.ledger import Entry, Ledger
from iris.cluster.engine.machine import gpu_ids


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (0, 1, 10)),
        ("", ()),
        ("10,0", (0, 10)),
        ("-1", ()),
        ("7", ()),
        ("GPU-8c1f", ("GPU-8c1f",)),
        ("GPU-b, GPU-a", ("GPU-b", "GPU-a")),
        ("GPU-a,GPU-a", ("GPU-a",)),
        ("MIG-1,MIG-GPU-8c1f/1/0,MIG-2", ("MIG-1", "MIG-GPU-8c1f/1/0", "MIG-2")),
        ("GPU-a,0,GPU-b", ("GPU-a",)),  # CUDA ignores all words after the first invalid word
        ("gpu-a", ()),
    ],
)
def test_visible_devices_name_gpus_by_number_or_by_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: tuple[int | str, ...]
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_ids(tmp_path) == expected


def test_ids_on_a_machine_without_device_files_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8c1f")
    assert gpu_ids(tmp_path) == ()


def test_ledger_keeps_the_ids_and_the_numbers_of_gpus(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    slots = (Slot("w", "w", ("GPU-a", "MIG-b")), Slot("v", "v", (0, 1)))
    ledger.hold(Entry(GangRequest("a@0", 2, Resources(gpu=2)), slots, ("one", "two")))
    ledger.flush()
    (entry,) = Ledger(tmp_path / "ledger").load()
    assert entry.slots == slots

"""The local engine's ledger on disk: which gangs hold which slots of which worker processes, for the next engine.

Lines of JSON are appended; a gang counts from its own line until the line that releases it. What is written survives
the process, which is enough: no worker survives the machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.engine.base import GangRequest, Resources, Slot
from iris.errors import ResourceExhaustedError

_REWRITE_LINES = 1000  # of which this is reached, and most speak of gangs that are gone


@dataclass(frozen=True, slots=True)
class Entry:
    """A gang that holds room; for each slot, which process of its worker it was."""

    gang: GangRequest
    slots: tuple[Slot, ...]
    incarnations: tuple[str, ...]


class Ledger:
    """The gangs that hold room.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self._unwritten: list[str] = []
        self._untold: set[str] = set()  # of the gangs that hold room, those of which nothing is written yet
        self._lines = 0
        self._is_whole = False  # what is in the file is what it should be, up to `_unwritten`

    def load(self) -> list[Entry]:
        """What an earlier engine left."""
        if self._path is not None and self._path.exists():
            for line in self._path.read_text(errors="replace").splitlines():
                self._take(line)
        return list(self._entries.values())

    def hold(self, entry: Entry) -> None:
        """A gang has room."""
        self._entries[entry.gang.gang_id] = entry
        if self._path is not None:
            self._unwritten.append(_dump(entry))
            self._untold.add(entry.gang.gang_id)

    def release(self, gang_id: str) -> None:
        """It has no more."""
        if self._entries.pop(gang_id, None) is not None and self._path is not None:
            self._unwritten.append(json.dumps({"release": gang_id}))
            self._untold.discard(gang_id)

    def flush(self) -> None:
        """Writes what has changed. What holds room and is not written may not be told to the controller, who would act
        on it; that something was released may be, since a controller that comes back releases it again.

        Raises:
            ResourceExhaustedError: Some of what holds room cannot be written now.
        """
        if self._path is None or (self._is_whole and not self._unwritten):
            return
        lines = self._lines + len(self._unwritten)
        try:
            if not self._is_whole or (lines > _REWRITE_LINES and lines > 8 * len(self._entries)):
                self._rewrite(self._path, [_dump(entry) for entry in self._entries.values()])
                lines = len(self._entries)
            else:
                self._is_whole = False
                with self._path.open("a") as file:
                    file.write(_join(self._unwritten))
        except OSError as error:
            if not self._untold:
                return
            raise ResourceExhaustedError(f"cannot write {self._path}: {error}") from error
        self._is_whole, self._lines, self._unwritten = True, lines, []
        self._untold.clear()

    def remove(self) -> None:
        """There are no more workers that anything could be known of."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _rewrite(self, path: Path, lines: Iterable[str]) -> None:
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(_join(lines))
        beside.rename(path)

    def _take(self, line: str) -> None:
        try:
            record = json.loads(line)
            if "release" in record:
                self._entries.pop(record["release"], None)
                return
            cpu, memory_bytes, gpu = record["need"]
            slots = tuple(Slot(worker_id, worker_id, tuple(gpu_ids)) for worker_id, _, gpu_ids in record["slots"])
            gang = GangRequest(record["gang"], len(slots), Resources(cpu, memory_bytes, gpu))
            self._entries[gang.gang_id] = Entry(gang, slots, tuple(one for _, one, _ in record["slots"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # the writer was killed within a line: it had told nobody of it


def _dump(entry: Entry) -> str:
    slots = [
        (slot.worker_id, incarnation, slot.gpu_ids)
        for slot, incarnation in zip(entry.slots, entry.incarnations, strict=True)
    ]
    return json.dumps({"gang": entry.gang.gang_id, "need": entry.gang.need.amounts(), "slots": slots})


def _join(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)

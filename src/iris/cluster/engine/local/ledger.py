"""The local engine's ledger on disk. The ledger records which gangs hold slots, and which worker process serves each
slot.

The ledger is a file of JSON lines. New lines are appended. The next engine reads the file. A gang holds its slots if
the file has a line that names the gang and no later line that releases the gang. Nothing is synced to disk, because no
worker survives a crash of the machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.engine.base import GangRequest, Resources, Slot
from iris.errors import ResourceExhaustedError
from iris.system.files import write_file

# If a ledger has more lines than this, and most lines concern released gangs, the ledger is rewritten.
_REWRITE_LINES = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A gang that holds slots, with the incarnation of the worker process for each slot."""

    gang: GangRequest
    slots: tuple[Slot, ...]
    incarnations: tuple[str, ...]


class Ledger:
    """The gangs that hold slots.

    Args:
        path: The ledger's file. If None, nothing is kept on disk.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self._unwritten: list[str] = []
        self._unsaved: set[str] = set()  # The ids of the gangs that hold slots, but are not yet in the ledger's file.
        self._lines = 0
        # Whether the ledger file certainly has all lines. If not, `flush` writes the whole file again.
        self._is_whole = False

    def load(self) -> list[Entry]:
        """Read the gangs that an earlier engine wrote, and return them."""
        if self._path is not None and self._path.exists():
            for line in self._path.read_text(errors="replace").splitlines():
                self._apply_line(line)
        return list(self._entries.values())

    def hold(self, entry: Entry) -> None:
        """Record that a gang holds slots. `flush` writes the record."""
        self._entries[entry.gang.gang_id] = entry
        if self._path is not None:
            self._unwritten.append(_dump(entry))
            self._unsaved.add(entry.gang.gang_id)

    def release(self, gang_id: str) -> None:
        """Record that a gang has released its slots. `flush` writes the record."""
        if self._entries.pop(gang_id, None) is not None and self._path is not None:
            self._unwritten.append(json.dumps({"release": gang_id}))
            self._unsaved.discard(gang_id)

    def flush(self) -> None:
        """Write all changes to the file.

        A gang must be in the file before the controller learns that the gang holds slots, because the controller then
        starts tasks. The release of a gang may be reported before it is written. If the line is lost, the next
        controller releases the gang again.

        Raises:
            ResourceExhaustedError: A gang that holds slots cannot be recorded in the file, for example because the disk
                is full.
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
            if not self._unsaved:
                return
            raise ResourceExhaustedError(f"cannot write {self._path}: {error}") from error
        self._is_whole, self._lines, self._unwritten = True, lines, []
        self._unsaved.clear()

    def remove(self) -> None:
        """Delete the file. Call this method only after all workers have ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _rewrite(self, path: Path, lines: Iterable[str]) -> None:
        write_file(path, _join(lines))

    def _apply_line(self, line: str) -> None:
        try:
            record = json.loads(line)
            if "release" in record:
                self._entries.pop(record["release"], None)
                return
            cores, memory_bytes, gpu = record["need"]
            slots = tuple(Slot(worker_id, worker_id, tuple(gpu_ids)) for worker_id, _, gpu_ids in record["slots"])
            gang = GangRequest(record["gang"], len(slots), Resources.of(cores, memory_bytes, gpu))
            self._entries[gang.gang_id] = Entry(gang, slots, tuple(one for _, one, _ in record["slots"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            # An incomplete line may be ignored. Its writer was killed during the write, before the controller learned
            # of the gang.
            return


def _dump(entry: Entry) -> str:
    slots = [
        (slot.worker_id, incarnation, slot.gpu_ids)
        for slot, incarnation in zip(entry.slots, entry.incarnations, strict=True)
    ]
    need = entry.gang.need
    # The ledger has cores instead of millicores, because ledgers of earlier releases have cores.
    return json.dumps({"gang": entry.gang.gang_id, "need": (need.cpu, need.memory_bytes, need.gpu), "slots": slots})


def _join(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)

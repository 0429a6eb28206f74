"""Finds out which messages of a list have changed since a client received the list. The module is pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
# A list keeps the names of at most this many removed items. If there are more, the list forgets all of these names, and
# each client whose revision is too old gets the whole list again.
_MAX_REMOVED = 10_000


class ChangingList(Generic[M]):
    """A list of named protobuf messages. The changes of the list are numbered, and a client gets the changes after the
    last number that it knows.

    Attributes:
        revision: The number of the last change of the list.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._items: dict[str, tuple[int, bytes, M]] = {}
        self._removed: dict[str, int] = {}
        # Removed names are forgotten when there are too many. A client may have missed a removal if its revision is not
        # higher than `_forgotten`. Such a client gets the whole list.
        self._forgotten = -1

    def update(self, items: Mapping[str, tuple[bytes, M]]) -> None:
        """Replace the list.

        Args:
            items: For each message, by name: bytes for comparison, and the message. A message has changed if its bytes
                for comparison have changed.
        """
        revision = self.revision + 1
        has_changed = False
        for name, (key, message) in items.items():
            known = self._items.get(name)
            if known is None or known[1] != key:
                self._items[name] = (revision, key, message)
                self._removed.pop(name, None)
                has_changed = True
        for name in [name for name in self._items if name not in items]:
            del self._items[name]
            self._removed[name] = revision
            has_changed = True
        if len(self._removed) > _MAX_REMOVED:
            self._removed.clear()
            self._forgotten = revision - 1
        if has_changed:
            self.revision = revision

    def is_unknown(self, revision: int) -> bool:
        """Return whether a client that knows the list at this revision must get the whole list again. -1 stands for a
        new client.
        """
        return revision <= self._forgotten

    def since(self, revision: int) -> tuple[list[M], list[str]]:
        """Return the items that have changed after a revision, by name, and the names of removed items. After the
        revision -1, return the whole list.
        """
        if revision >= self.revision:
            return [], []
        changed = [message for _, (at, _, message) in sorted(self._items.items()) if at > revision]
        removed = [] if revision < 0 else sorted(name for name, at in self._removed.items() if at > revision)
        return changed, removed

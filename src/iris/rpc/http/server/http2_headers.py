"""Decodes the heads of requests over HTTP/2, and remembers the last heads of a connection.

The calls of one client have similar heads, often with a token of some hundred bytes. The library hpack decodes each
head in Python. By remembering repeated heads, this module saves a third of the CPU time of a call.

The meaning of an encoded head depends on a table, which changes with each head that adds an entry. Therefore a
remembered result is used only while the table is unchanged. Heads that change the table themselves are not remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack import Decoder, HeaderTuple
from hpack.table import HeaderTable

# For each connection, the server remembers at most this many decoded heads of requests.
_REMEMBERED = 16
# A head is remembered only if its encoded form has at most this many bytes.
_LARGEST_BYTES = 4096


class RememberingDecoder(Decoder):
    """A decoder of HPACK that returns the result of an earlier call for the same bytes."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._remembered: dict[bytes, list[HeaderTuple]] = {}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """Return the headers in an encoded head."""
        if raw and (known := self._remembered.get(data)) is not None:
            return list(known)
        before = _state(self.header_table)
        headers = list(super().decode(data, raw))
        if not _is_same(before, _state(self.header_table)):
            self._remembered.clear()
        elif raw and len(data) <= _LARGEST_BYTES:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[data] = list(headers)
        return headers


def _state(table: HeaderTable) -> tuple[Any, ...]:
    entries = table.dynamic_entries
    return (entries[0] if entries else None, len(entries), table.maxsize)


def _is_same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    # The identity of the table's first entry shows whether the table has changed, because each added entry is a new
    # tuple at the beginning.
    return before[0] is after[0] and before[1:] == after[1:]

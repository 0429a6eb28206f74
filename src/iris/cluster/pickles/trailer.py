"""What stands behind a pickle: where its code comes from, readable without running any of it.

A pickle ends where its STOP is, and every unpickler ignores the bytes behind it. Therefore releases of Iris without
trailers load pickles that have one.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, field

_MAGIC = b"iris-pickle-trailer-1"
_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True)
class ModuleSource:
    """The identity of a module's source.

    Attributes:
        file: Where the source is on the machine that pickled it; empty when it has no file.
        digest: SHA-256 of the source, or a text that starts with `folder` or `process:`.
        root: The folder to have on `sys.path` for importing the module.
    """

    file: str
    digest: str
    root: str


@dataclass(frozen=True)
class Trailer:
    """Where the code in a pickle comes from.

    Attributes:
        modules: The modules whose code travels by value, and the packages that contain them.
        lines: Source text by file name, as tracebacks show it.
        shared: By module and global of its functions, where the modules in `modules` have the same object:
            `{"__main__": {"MODELS": ["registry:MODELS"]}}`.
    """

    modules: dict[str, ModuleSource] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    shared: dict[str, dict[str, list[str]]] = field(default_factory=dict)


def append_trailer(pickled: bytes, trailer: Trailer) -> bytes:
    """Return the pickle with the trailer behind it; without one when the trailer is empty."""
    if trailer == Trailer():
        return pickled
    packed = zlib.compress(json.dumps(asdict(trailer)).encode())
    return b"".join((pickled, packed, _LENGTH.pack(len(packed)), _MAGIC))


def read_trailer(data: bytes) -> Trailer | None:
    """Return the trailer behind a pickle; None when there is none."""
    end = len(data) - len(_MAGIC) - _LENGTH.size
    if end < 0 or not data.endswith(_MAGIC):
        return None
    (length,) = _LENGTH.unpack_from(data, end)
    if length > end:
        return None
    try:
        fields = json.loads(zlib.decompress(data[end - length : end]))
        modules = {name: ModuleSource(**source) for name, source in fields["modules"].items()}
        return Trailer(modules, fields["lines"], fields["shared"])
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError):
        return None  # the pickle only happens to end like that

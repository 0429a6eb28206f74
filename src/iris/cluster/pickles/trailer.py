"""Reads and writes the trailer of a pickle. A trailer describes the sources of the code in the pickle.

A trailer can be read without unpickling anything. Every unpickler ignores the bytes after the STOP instruction of a
pickle, so releases of Iris without trailers can load pickles with a trailer.
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
        file: The path of the source on the machine that pickled the module. Empty if the module has no file.
        digest: The SHA-256 of the source. For a module without a file: a text that starts with `folder` or `process:`.
        root: The folder that must be on `sys.path` to import the module.
    """

    file: str
    digest: str
    root: str


@dataclass(frozen=True)
class Trailer:
    """The sources of the code in a pickle.

    Attributes:
        modules: The modules that are pickled by value, and the packages that contain them.
        lines: The source text by file name, for tracebacks.
        shared: The globals that several modules share, by module and name. For example,
            `{"__main__": {"MODELS": ["registry:MODELS"]}}` means that `MODELS` in `__main__` and in `registry` is the
            same object.
    """

    modules: dict[str, ModuleSource] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    shared: dict[str, dict[str, list[str]]] = field(default_factory=dict)


def append_trailer(pickled: bytes, trailer: Trailer) -> bytes:
    """Return the pickle with the trailer appended. If the trailer is empty, return only the pickle."""
    if trailer == Trailer():
        return pickled
    packed = zlib.compress(json.dumps(asdict(trailer)).encode())
    return b"".join((pickled, packed, _LENGTH.pack(len(packed)), _MAGIC))


def read_trailer(data: bytes) -> Trailer | None:
    """Return the trailer of a pickle, or None if the pickle has no trailer."""
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
        return None  # The pickle has no trailer, although its last bytes look like the end of a trailer.

"""A program that writes unusual output, and a function that computes the same output.

    writing = Writing(seed=7, exits=(3, 0))
    job = client.run(writing.command(), max_retries_failure=1)
    …
    assert data == writing.expected(attempt, "stdout")

Only the attributes of `Writing`, the attempt and the source determine the output. It contains numbered lines, single
and in bursts, cut into writes at any byte; NUL, 0xff, broken UTF-8, `\\r` and empty lines; bytes that look like
Iris's records or like a chunk of HTTP; lines of 2 to 3 MiB; and for every second source a last line without a
newline. The program imports only the standard library, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCES = ("stdout", "stderr")
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Writing:
    """What is written.

    Attributes:
        seed: Makes two writings different.
        size: About how many bytes each source gets, long lines apart.
        long_lines: How many lines of 2 to 3 MiB each source gets.
        pauses: How often the program pauses for a moment, in each attempt.
        pause_s: For how long, each time.
        exits: The exit code of each attempt; the last one also of those that follow.
        gate: A file; the program makes its last quarter of writes once that exists. Empty: at once.
    """

    seed: int = 0
    size: int = 100_000
    long_lines: int = 1
    pauses: int = 20
    pause_s: float = 0.002
    exits: tuple[int, ...] = (0,)
    gate: str = ""

    def command(self) -> list[str]:
        """The command of a task that writes the output."""
        return [sys.executable, "-S", str(Path(__file__).resolve()), json.dumps(asdict(self))]

    def expected(self, attempt: int, source: str) -> bytes:
        """Return all bytes that an attempt writes to a source."""
        return b"".join(self._lines(attempt, source))

    def before_gate(self, attempt: int, source: str) -> bytes:
        """Return all bytes that an attempt writes to a source before it waits for the gate."""
        writes = list(self.writes(attempt))
        return b"".join(data for written_to, data in writes[: len(writes) * 3 // 4] if written_to == source)

    def exit_code(self, attempt: int) -> int:
        """Return the exit code of an attempt."""
        return self.exits[min(attempt, len(self.exits) - 1)]

    def writes(self, attempt: int) -> Iterator[tuple[str, bytes]]:
        """Yield the writes in order. Each write is a pair of source and bytes, and one system call."""
        chance = random.Random(f"writes {self.seed} {attempt}")
        left = {source: memoryview(self.expected(attempt, source)) for source in SOURCES}
        while open_sources := [source for source in SOURCES if left[source]]:
            source = chance.choice(open_sources)
            view = left[source]
            line_end = bytes(view[:_PIECE_BYTES]).find(b"\n")
            if chance.random() < 0.4 and line_end >= 0:
                size = line_end + 1  # a line, as most programs write it
            else:
                in_long_line = line_end < 0
                size = chance.randint(1, _PIECE_BYTES if in_long_line or chance.random() < 0.05 else 2_000)
            yield source, bytes(view[:size])
            left[source] = view[size:]

    def _lines(self, attempt: int, source: str) -> Iterator[bytes]:
        chance = random.Random(f"lines {self.seed} {attempt} {source}")
        size = number = 0
        long_at = sorted(chance.randrange(max(self.size, 1)) for _ in range(self.long_lines))
        while size < self.size:
            head = b"%s %d of attempt %d " % (source.encode(), number, attempt)
            line = head + _odd(chance) + b"\n"
            number += 1
            size += len(line)
            yield line
            while long_at and size >= long_at[0]:
                long_at.pop(0)
                length = chance.randint(2 << 20, 3 << 20)
                yield head + chance.randbytes(4096).replace(b"\n", b"\0") * (length // 4096) + b"\n"
        if chance.random() < 0.5:
            yield b"%s ends here, without a newline\xc3" % source.encode()

    def run(self, attempt: int) -> int:
        """Write the output of an attempt, and return the exit code."""
        files = {"stdout": 1, "stderr": 2}
        writes = list(self.writes(attempt))
        chance = random.Random(f"pauses {self.seed} {attempt}")
        pauses = {chance.randrange(len(writes)) for _ in range(self.pauses)} if writes else set()
        for number, (source, data) in enumerate(writes):
            if number in pauses:
                time.sleep(self.pause_s)
            if self.gate and number == len(writes) * 3 // 4:
                while not os.path.exists(self.gate):
                    time.sleep(0.01)
            view = memoryview(data)
            while view:
                view = view[os.write(files[source], view) :]
        return self.exit_code(attempt)


def expected(seed: int, attempt: int, source: str) -> bytes:
    """Return the output of `Writing(seed)` with default values for all other attributes."""
    return Writing(seed).expected(attempt, source)


def _odd(chance: random.Random) -> bytes:
    match chance.randrange(14):
        case 0:
            return b""
        case 1:
            return b"nul \0 inside, \0\0\0"
        case 2:
            return b"\xff\xfe no text \x80\x81"
        case 3:
            return "Grüße, 世界, 🚀 ".encode() * chance.randint(1, 30)
        case 4:
            return b"broken \xc3 \xe4\xb8 \xf0\x9f\x9a"
        case 5:
            return b"\r".join(b"%3d%%" % percent for percent in range(0, 101, chance.randint(1, 50))) + b"\r"
        case 6:
            return _frame(chance, magic=chance.choice((0x17, 0x18)))  # a record of ours, whole and with its checksum
        case 7:
            return _frame(chance)[: chance.randrange(25)]
        case 8:
            return b"\0\0\0\0\0" + b"\2\0\0\0\2{}"  # a message and the end of a stream, as Connect frames them
        case 9:
            return b"0\r"  # with its newline, and the next line empty, the last chunk of an HTTP/1.1 answer
        case 10:
            return b"\n\n\n"
        case 11:
            return b"\x1b[2K\x1b[1A\x1b]0;title\x07"
        case _:
            return bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz     ", k=chance.randint(1, 400)))


def _frame(chance: random.Random, magic: int = 0x18) -> bytes:
    """Return a record in the format of src/iris/cluster/logs/records.py. That module is not imported, because the
    program must start fast."""
    payload = b"I am no record "
    checked = struct.pack("<QQB", chance.getrandbits(40), chance.getrandbits(20), chance.choice((0, 1, 2, 0x10)))
    checksum = zlib.crc32(payload, zlib.crc32(checked))
    return (struct.pack("<II", magic << 24 | len(payload), checksum) + checked + payload).replace(b"\n", b"\r")


if __name__ == "__main__":
    numbers = json.loads(sys.argv[1])
    numbers["exits"] = tuple(numbers["exits"])
    sys.exit(Writing(**numbers).run(int(os.environ.get("IRIS_ATTEMPT_ID", "0"))))

"""What the tasks of the log benchmarks run: programs that write lines of 100 bytes, at full speed or by the clock."""

from __future__ import annotations

import sys

LINE_BYTES = 100  # the newline included

# Blocks of about 64 KiB, as a program writes whose stdout is a pipe and whose own speed is no question.
_FULL_SPEED = """
import os, sys
line = b"0123456789" * 9 + b"123456789\\n"
block = line * 655
left = int(sys.argv[1]) * len(line)
while left > 0:
    left -= os.write(1, block[:left] if left < len(block) else block)
"""

# Each line begins with its number and the monotonic time at which it was printed, which is the same clock in all
# processes of a machine. Lines that are due in the same millisecond come one right after the other.
_BY_THE_CLOCK = """
import os, sys, time
gate, rate, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
while not os.path.exists(gate):
    time.sleep(0.01)
tick_s = max(0.001, 1 / rate)
per_tick = max(1, round(rate * tick_s))
start = time.monotonic()
for number in range(count):
    if number % per_tick == 0:
        left = start + number / rate - time.monotonic()
        if left > 0:
            time.sleep(left)
    print(f"{number} {time.monotonic_ns()} ".ljust(99, "x"), flush=True)
print(f"{count} {time.monotonic_ns()} ".ljust(99, "x"), flush=True)
os._exit(0)
"""

# One of many: they begin at the moment that the gate names, each a little after the one before, so that what is
# measured is not the start of 256 programs, and not 256 lines in the same instant. No print: as light as may be.
_ONE_OF_MANY = """
import os, sys, time
gate, rate, count, index = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(os.environ["IRIS_TASK_INDEX"])
write, clock, sleep = os.write, time.monotonic_ns, time.sleep
write(1, b"ready\\n")
while not os.path.exists(gate):
    sleep(0.5)
begin = int(open(gate).read()) + int(index * 1e9 / rate / int(os.environ["IRIS_NUM_TASKS"]))
used = time.process_time()
for number in range(count):
    left = begin + number * 1e9 / rate - clock()
    if left > 0:
        sleep(left / 1e9)
    write(1, b"%-99s\\n" % b"%d %d " % (number, clock()))
write(1, b"cpu %d\\n" % ((time.process_time() - used) * 1e9))
"""


def writes_lines(count: int) -> list[str]:
    """Writes so many lines as fast as it can."""
    return _python(_FULL_SPEED, count)


def writes_by_the_clock(gate: str, rate: float, count: int) -> list[str]:
    """Writes "ready"; once the file `gate` exists so many lines at so many a second, as `print(…, flush=True)` writes
    them, each `NUMBER MONOTONIC_NS xxx…`; and then one more, right before it exits."""
    return _python(_BY_THE_CLOCK, gate, rate, count)


def writes_as_one_of_many(gate: str, rate: float, count: int) -> list[str]:
    """Writes "ready", from the moment (monotonic, ns) that the file `gate` then has in it the same lines, and last
    "cpu NS": what that took of CPU. The file appears as a whole."""
    return _python(_ONE_OF_MANY, gate, rate, count)


def _python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", program, *map(str, arguments)]

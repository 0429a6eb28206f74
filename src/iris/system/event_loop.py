"""Runs the asyncio loop of a program, and prepares the process of a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine
from typing import Any

# A thread that wants to run Python code waits at most this many seconds for another thread of the process. With
# Python's default of 5 ms, a thread that reads a log or the database would often keep the event loop waiting for 5 ms.
_SWITCH_S = 0.0005


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a server's main coroutine on uvloop if uvloop is installed, and otherwise on asyncio's own loop. The other
    threads of the process get shorter turns than usual.
    """
    sys.setswitchinterval(_SWITCH_S)
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait for an event for at most `within_s` seconds, and return whether the event is set. `asyncio.wait_for` is not
    used, because before Python 3.12 it can swallow the cancellation of the waiting task.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()


def raise_file_limit() -> None:
    """Raise the limit of open files to the hard limit. A worker needs four open files for an attempt and one for a
    reader.
    """
    import resource  # The import is here because clients also import this module, and Windows has no module `resource`.

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_file_limit() -> int:
    """Return the number of files that this process may have open."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def use_no_proxy() -> None:
    """Make calls between the parts of a cluster bypass every proxy that the environment names. The variable NO_PROXY
    gets more entries than `*`, because connectrpc's transport does not apply `*` to numeric addresses.
    """
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "0.0.0.0/0,::/0,*"

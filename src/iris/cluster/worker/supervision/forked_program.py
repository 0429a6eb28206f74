"""Turns processes that were forked from a loaded program into workers. The fork server (fork_server.py) and the server
of a cluster (prepared_worker.py) fork such processes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_LAST_DESCRIPTOR = 2**20


def load_worker() -> None:
    """Load all modules that a worker uses in its first second."""
    import uvicorn.lifespan.off
    import uvicorn.loops.auto
    import uvicorn.protocols.http.auto  # noqa: F401

    import iris.cluster.worker.wiring
    import iris.rpc.auth.tokens  # noqa: F401

    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    # pyqwest loads these modules with its first transport, if they are installed.
    with contextlib.suppress(ImportError):
        import opentelemetry.metrics
        import opentelemetry.propagate
        import opentelemetry.trace  # noqa: F401


def become_worker(set_up: Callable[[], str]) -> NoReturn:
    """Turn a forked child into a worker, in the same way as `__main__.py` starts one. The child never returns to the
    stack of the program that it was forked from.

    Args:
        set_up: A function that prepares the process, sets `sys.argv`, and returns the worker's token, with which the
            worker marks its processes.
    """
    code = 1
    try:
        token = set_up()

        from iris.cluster.worker.process import launcher
        from iris.cluster.worker.supervision import reaper

        own_launcher = launcher.start_launcher()
        own_reaper = reaper.start_reaper(token, own_launcher)
        from iris.cluster.worker.wiring import run

        run(token, own_reaper, own_launcher)
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - No exception may return to the program that has forked this process.
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def close_all_except(*kept: int) -> None:
    """Close all descriptors from 3 up except the given ones."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = max(first, descriptor + 1)
    os.closerange(first, _LAST_DESCRIPTOR)

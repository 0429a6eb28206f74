"""The worker's program: `python -m iris.cluster.worker`. An engine starts it; nobody needs to do so by hand."""

from __future__ import annotations

import secrets
import sys

from iris.cluster.worker.process import launcher
from iris.cluster.worker.supervision import reaper
from iris.system.inherited import use_defaults


def main() -> None:
    """Forks the launcher and the reaper first, while this process is small and has no threads, then becomes the worker.

    The launcher comes before the reaper, whose pipe it must not hold: the end of that pipe tells of the worker's.
    """
    use_defaults()
    if not sys.platform.startswith("linux"):
        sys.exit("iris: workers run on Linux (they need /proc and process groups); a client runs anywhere Python does")
    if sys.argv[1:] in (["-h"], ["--help"]):
        from iris.cluster.worker.arguments import parse_arguments

        parse_arguments()
    token = secrets.token_hex(8)
    own_launcher = launcher.start_launcher()
    own_reaper = reaper.start_reaper(token, own_launcher)

    from iris.cluster.worker.wiring import run

    run(token, own_reaper, own_launcher)


if __name__ == "__main__":
    main()

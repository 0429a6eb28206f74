"""The worker's program, `python -m iris.cluster.worker`. The engines start this program, so users need not start it."""

from __future__ import annotations

import secrets
import sys

from iris.cluster.worker.process import launcher
from iris.cluster.worker.supervision import reaper
from iris.interpreter import pause_collector, prepare_quick_exit, quick_exit
from iris.system.inherited import use_defaults


def main() -> None:
    """Fork the launcher and the reaper while this process is small and has no threads, then become the worker.

    The launcher is forked first, because it must not inherit the pipe to the reaper. The reaper notices the end of the
    worker by the end of this pipe.
    """
    prepare_quick_exit()
    use_defaults()
    if not sys.platform.startswith("linux"):
        sys.exit("iris: workers run on Linux (they need /proc and process groups); a client runs anywhere Python does")
    if sys.argv[1:] in (["-h"], ["--help"]):
        from iris.cluster.worker.arguments import parse_arguments

        parse_arguments()
    token = secrets.token_hex(8)
    own_launcher = launcher.start_launcher()
    own_reaper = reaper.start_reaper(token, own_launcher)

    # The garbage collector is paused only after the forks, because the launcher and the reaper need the collector.
    pause_collector()
    from iris.cluster.worker.supervision.worker_identity import WORKER_NAME
    from iris.cluster.worker.wiring import run
    from iris.system.process_identity import set_process_name

    set_process_name(WORKER_NAME)
    run(token, own_reaper, own_launcher)
    quick_exit(0)


if __name__ == "__main__":
    main()

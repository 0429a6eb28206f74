"""The program `python -m iris.server`. `iris up` and `IrisClient.local()` start this program."""

from iris.interpreter import pause_collector, prepare_quick_exit, quick_exit


def main() -> None:
    """Run a server until SIGTERM. The modules of the server are imported while the garbage collector is paused."""
    prepare_quick_exit()
    pause_collector()
    from iris.server.program import run

    run()
    quick_exit(0)


if __name__ == "__main__":
    main()

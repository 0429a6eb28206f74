"""Runs the benchmarks, one printed line per figure: `python -m benchmarks [NAME …]`, all of them without a name.

The machine should have nothing else to do: figures of a busy one are figures of its other work.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import platform
import signal
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# In the order in which they are run. The name is the module's, and begins each of its lines.
NAMES = (
    "local_ready",
    "true_job",
    "many_tasks",
    "map_inputs",
    "many_jobs",
    "scheduling",
    "submissions",
    "growth",
    "greedy_readers",
    "log_route_readers",
    "forward",
    "list_watchers",
    "metrics_cost",
    "traces_cost",
    "stacks",
    "page_load",
    "open_pages",
    "copy_files",
    "task_status",
    "http_versions",
    "import_time",
    "log_reading",
    "log_capture",
    "log_live",
    "log_many_tasks",
    "page_logs",
    "async_follows",
    "ray_gang",
    "detection",
)


def main() -> int:
    """Runs what the command line names. Exit code 1 when one of them broke; an aim that is missed is no failure."""
    arguments = _parse_arguments()
    if arguments.list:
        print("\n".join(_descriptions()))
        return 0
    # Cleaning up is in `finally` and `with`, which a plain SIGTERM would skip.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not __package__:  # run as `python benchmarks`, from anywhere
        sys.path.insert(0, str(_HERE.parent))
    print(f"# {os.cpu_count()} cores, Python {platform.python_version()}, {_load()}", flush=True)
    broken = 0
    for name in arguments.names or NAMES:
        try:
            importlib.import_module(f"benchmarks.{name}").run()
        except Exception as error:  # noqa: BLE001 - the others can still be measured
            print(f"{name:<14} broke: {type(error).__name__}: {error}", flush=True)
            broken += 1
    return 1 if broken else 0


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else "load unknown"


def _descriptions() -> list[str]:
    """One line for each benchmark: the first of its docstring, read without importing it."""
    width = max(map(len, NAMES)) + 2
    lines = []
    for name in NAMES:
        docstring = ast.get_docstring(ast.parse((_HERE / f"{name}.py").read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<{width}}{docstring.partition(chr(10))[0]}")
    return lines


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="benchmarks:\n" + "\n".join(_descriptions()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; default: all, in this order")
    parser.add_argument("--list", action="store_true", help="say which there are, and run none")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(map(repr, unknown))} (there are: {', '.join(NAMES)})")
    return arguments


if __name__ == "__main__":
    sys.exit(main())

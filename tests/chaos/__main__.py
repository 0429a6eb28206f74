"""`python -m chaos [--seed N] [--minutes M] [--runs R]`: see the package."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from support.tokens import prepare_environment

from chaos.run import run


def main() -> None:
    """Run chaos. If a check fails, keep all files and exit with 1."""
    parser = argparse.ArgumentParser(
        prog="poe chaos", description="Kills a cluster under load, and checks what is left"
    )
    parser.add_argument("--seed", help="default: a new one, which is printed")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long each run is (%(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="each with the next seed (%(default)s)")
    parser.add_argument("--directory", type=Path, help="where everything lies (default: a temporary one)")
    arguments = parser.parse_args()
    prepare_environment()  # the key of the clusters, and the token of what calls them
    first = arguments.seed or str(secrets.randbelow(10**6))
    root = arguments.directory or Path(tempfile.mkdtemp(prefix="iris-chaos-"))
    kills: Counter[str] = Counter()
    failed = 0
    for number in range(arguments.runs):
        seed = str(int(first) + number) if first.isdigit() else f"{first}{number or ''}"
        directory = (root / f"seed-{seed}").absolute()
        print(f"seed {seed}: {arguments.minutes * 60:.0f} s in {directory}", flush=True)
        began = time.monotonic()
        report = run(seed, arguments.minutes * 60, directory, lambda text: print(f"  {text}", flush=True))
        kills += report.kills
        print(f"  {dict(report.states)}; attempts {dict(report.attempts)}")
        print(f"  {_counted(report.kills)}; {time.monotonic() - began:.0f} s in all", flush=True)
        if report.wrong:
            failed += 1
            print(f"  WRONG, {len(report.wrong)} times; kept in {directory}")
            for wrong in report.wrong:
                print(f"    {wrong}", flush=True)
            print((directory / "events.txt").read_text(), *report.concerned[:3], sep="\n", flush=True)
        else:
            shutil.rmtree(directory)
    print(f"{arguments.runs} runs, {failed} with something wrong; {_counted(kills)}")
    sys.exit(1 if failed else 0)


def _counted(kills: Counter[str]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in sorted(kills.items()))


if __name__ == "__main__":
    main()

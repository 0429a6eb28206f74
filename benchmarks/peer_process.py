"""The processes of a peer that uses grpcio: in an environment of their own, spoken to line by line over their pipes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fresh_env import CHECKOUT, FreshEnvironment
from benchmarks.measure import plain_environment


@contextlib.contextmanager
def grpc_environment() -> Iterator[FreshEnvironment]:
    """An environment that has grpcio, and the protobuf that we have.

    Raises:
        CannotInstallError: There is no grpcio to be had.
    """
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as directory:
        protobuf = f"protobuf=={importlib.metadata.version('protobuf')}"
        yield FreshEnvironment(Path(directory) / "venv", "grpcio", protobuf)


@contextlib.contextmanager
def started(environment: FreshEnvironment, program: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs in it, and finds our generated messages; killed at the end."""
    process = subprocess.Popen(
        [str(environment.python), str(program), *arguments],
        env={**plain_environment(), "PYTHONPATH": str(CHECKOUT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], line: str) -> str:
    """Gives a program a line, and waits for the one with which it answers."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen[str]) -> str:
    """The next line that a program prints."""
    line = process.stdout.readline().strip() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("the grpcio peer ended; its reason is above")
    return line

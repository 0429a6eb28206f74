"""Import of the client, and size of a base install, beside grpcio, kubernetes and modal.

Each in a fresh virtual environment without extras, bytecode compiled. The time is the wall time of a whole
`python -c "import …"`, and the same without a bare `python -c pass` of the same environment. Rounds alternate between
all of them. Warm-up: one round, not counted.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fresh_env import CHECKOUT, CannotInstallError, FreshEnvironment
from benchmarks.measure import p50, p95, plain_environment, show

_REPEATS = 15
# Distribution, what to install, what to import.
_SUBJECTS = (
    ("iris-cluster", str(CHECKOUT), "from iris.client import IrisClient"),
    ("grpcio", "grpcio", "import grpc"),
    ("kubernetes", "kubernetes", "from kubernetes import client"),
    ("modal", "modal", "import modal"),
)


@dataclass(slots=True)
class _Subject:
    name: str
    statement: str
    environment: FreshEnvironment
    import_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)

    @property
    def net_ms(self) -> float:
        return p50(self.import_ms) - p50(self.bare_ms)


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        directory = Path(name)
        subjects = _install(directory)
        for _ in range(1 + _REPEATS):
            for subject in subjects:
                subject.bare_ms.append(_wall_ms(subject.environment, "pass", directory))
                subject.import_ms.append(_wall_ms(subject.environment, subject.statement, directory))
        sizes = [sum(subject.environment.installed_bytes()) for subject in subjects]
        bytecodes = [subject.environment.installed_bytes()[1] for subject in subjects]
    for subject in subjects:
        del subject.import_ms[0], subject.bare_ms[0]
    ours = next((subject for subject in subjects if subject.name == "iris-cluster"), None)
    for subject in subjects:
        ratio = (
            "" if ours is None or subject is ours else f"; iris-cluster takes {ours.net_ms / subject.net_ms:.2f} of it"
        )
        show(
            "import_time",
            f"{p50(subject.import_ms):.0f} ms `{subject.statement}`,"
            f" {subject.net_ms:.0f} ms without a bare python{ratio}"
            f" (p50 of {_REPEATS}, best {min(subject.import_ms):.0f} ms, p95 {p95(subject.import_ms):.0f} ms)",
        )
    for subject, size, bytecode in zip(subjects, sizes, bytecodes, strict=True):
        ratio = "" if ours is None or subject is ours else f"; iris-cluster has {sizes[0] / size:.2f} of it"
        show(
            "import_time",
            f"{size / 1e6:.1f} MB a base install of {subject.name}, {bytecode / 1e6:.1f} MB of it bytecode{ratio}",
        )


def _install(directory: Path) -> list[_Subject]:
    subjects = []
    for name, requirement, statement in _SUBJECTS:
        try:
            subjects.append(_Subject(name, statement, FreshEnvironment(directory / name, requirement)))
        except CannotInstallError as error:
            show("import_time", f"without {name}, which cannot be installed: {error}")
    return subjects


def _wall_ms(environment: FreshEnvironment, statement: str, directory: Path) -> float:
    command = [str(environment.python), "-c", statement]
    variables = plain_environment()
    start = time.perf_counter()
    # No timeout: with one, subprocess looks for the end only every 50 ms.
    subprocess.run(command, cwd=directory, env=variables, stdin=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000

"""Runs programs of a caller, and the callables that they submit, in separate folders."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from iris.cluster.pickles.loading import load_here
from iris.cluster.worker.process import start_callable
from iris.versions import python_version

# A module of the caller's: writes what a client would send.
SUBMIT = """
    import os
    from pathlib import Path
    from iris.cluster.client.pickling import pickle_entrypoint
    from iris.cluster.types import Entrypoint

    def submit(function, *args, workspace=None, **kwargs):
        entrypoint = Entrypoint.from_callable(function, *args, **kwargs)
        Path(os.environ["ENTRYPOINT"]).write_bytes(pickle_entrypoint(entrypoint, workspace=workspace))
"""


class Caller:
    """A folder with the caller's programs and modules, and a folder of a worker. The worker cannot import the caller's
    modules.

    Args:
        path: An empty folder.

    Attributes:
        folder: Where the caller's programs are, and run.
        work: The directory of the task.
        entrypoint: The file with what was submitted.
        result: The file with what the callable returned.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path / "caller"
        self.entrypoint = path / "entrypoint"
        self.work = path / "work"
        self.result = path / "result"
        self.work.mkdir()
        write_sources(self.folder, {"submit.py": SUBMIT})

    def write(self, sources: dict[str, str]) -> None:
        """Write the caller's source files, by their paths below `folder`."""
        write_sources(self.folder, sources)

    def submit(self, *arguments: str, stdin: str = "", **env: str) -> None:
        """Run `python ARGUMENTS` in the caller's folder. The program has to call `submit`."""
        subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "ENTRYPOINT": str(self.entrypoint), **env},
            input=textwrap.dedent(stdin),
            text=True,
            check=True,
        )

    def run(self, **env: str) -> Any:
        """Run the submitted callable in the same way as a worker, and return its result."""
        done = self.try_to_run(**env)
        assert done.returncode == 0, done.stderr
        return pickle.loads(self.result.read_bytes())

    def load_result(self) -> Any:
        """Load the result in this process in the same way as `Job.results`."""
        return load_here(self.result.read_bytes())

    def try_to_run(self, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the submitted callable in the same way as a worker, and return the finished process."""
        command = [sys.executable, "-P", start_callable.__file__, self.entrypoint, self.result, python_version()]
        return subprocess.run(
            command, cwd=self.work, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )


def write_sources(folder: Path, sources: dict[str, str]) -> None:
    """Write source files, by their paths below a folder."""
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))

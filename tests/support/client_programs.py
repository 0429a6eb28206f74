"""The programs in examples/clients: how each one is started, and what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.tokens import token

EXAMPLES = Path(__file__).parents[2] / "examples" / "clients"
TYPESCRIPT = EXAMPLES / "typescript"
PROGRAMS = Path(sys.executable).parent  # buf is a program of the dev group


def need(*programs: str) -> None:
    """Skip the test if a program is missing."""
    missing = [name for name in programs if shutil.which(name, path=search_path()) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def need_node_modules() -> None:
    """Skip the test if Node or the packages of examples/clients/typescript are missing."""
    need("node")
    if not (TYPESCRIPT / "node_modules" / "esbuild").is_dir():
        pytest.skip(f"needs the packages of {TYPESCRIPT.name}: run 'npm install' there")


def search_path() -> str:
    return f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"


class TypeScript:
    """A copy of examples/clients/typescript, with the code that is generated from the exported schema.

    Args:
        directory: The directory of the copy, which does not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        need_node_modules()
        self.directory = directory
        shutil.copytree(TYPESCRIPT, directory, ignore=shutil.ignore_patterns("node_modules", "gen"))
        (directory / "node_modules").symlink_to(TYPESCRIPT / "node_modules")
        self._run("iris", "proto", "export", "schema")
        self._run("buf", "generate", "schema")

    def bundle(self, source: str, platform: str) -> Path:
        """Compile a program to one file of JavaScript."""
        made = self.directory / Path(source).with_suffix(".mjs" if platform == "node" else ".js").name
        flags = ["--bundle", f"--platform={platform}", "--format=esm", f"--outfile={made}", "--log-level=warning"]
        self._run("node_modules/.bin/esbuild", source, *flags)
        return made

    def _run(self, *command: str) -> None:
        variables = {"PATH": search_path(), "BUF_CACHE_DIR": str(self.directory / "cache")}
        subprocess.run(command, cwd=self.directory, env={**os.environ, **variables}, check=True)


class ClientProgram:
    """A running program of examples/clients, which submits a job, follows its log and says how it ended.

    Args:
        argv: The program and its own arguments, without the command of the job.
        address: The address of the cluster.
        command: The command of the job.
        env: Further environment variables.
    """

    def __init__(
        self, argv: Sequence[str | Path], address: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        variables = {"IRIS_CONTROLLER_ADDRESS": address, "IRIS_TOKEN": token(), "PATH": search_path()}
        self.process = subprocess.Popen(
            [*argv, *command],
            env={**os.environ, **variables, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_line(self) -> str:
        """Return the next line of stdout, which the program prints as soon as the task has written it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().removesuffix("\n")

    def wait(self) -> tuple[int, list[str], list[str]]:
        """Return the exit code, the rest of the lines of stdout, and the lines of stderr."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.splitlines(), err.splitlines()

    def close(self) -> None:
        """End the program if it is still running."""
        self.process.kill()
        self.process.communicate()

"""Virtual environments of a benchmark's own: made fresh, filled from the package registry, gone afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import plain_environment

CHECKOUT = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 300.0
_SHOWN_CHARACTERS = 300
# What a tool that makes the environment puts there; nobody asked for it.
_NOT_INSTALLED_BY_US = (
    "pip",
    "setuptools",
    "wheel",
    "pkg_resources",
    "_distutils_hack",
    "distutils-precedence",
    "_virtualenv",
)


class CannotInstallError(Exception):
    """An environment cannot be made or filled; the text is the tool's own last words."""


class FreshEnvironment:
    """A virtual environment of this Python, with bytecode compiled, as an installer leaves it. Made with `uv`,
    without it with `venv` and `pip`.

    Args:
        directory: Where; must not exist. Whoever gives it removes it.
        requirements: What to install; the path of a checkout is built first.

    Raises:
        CannotInstallError: The text says why.
    """

    def __init__(self, directory: Path, *requirements: str) -> None:
        self._directory = directory
        self.python = directory / "bin" / "python"
        uv = shutil.which("uv")
        if uv is not None:
            _run(uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(directory))
            # Refreshed: else uv hands out an earlier build of the checkout.
            install = [uv, "pip", "install", "--quiet", "--python", str(self.python), "--compile-bytecode"]
            _run(*install, "--refresh-package", "iris-cluster", *requirements)
        else:
            _run(sys.executable, "-m", "venv", str(directory))
            _run(str(self.python), "-m", "pip", "install", "--quiet", "--compile", *requirements)

    def installed_bytes(self) -> tuple[int, int]:
        """What was installed into site-packages: bytes of files, and of the bytecode compiled from them."""
        files = bytecode = 0
        for site_packages in self._directory.glob("lib/*/site-packages"):
            for path in site_packages.rglob("*"):
                top = path.relative_to(site_packages).parts[0]
                if path.is_dir() or top.partition(".")[0].partition("-")[0] in _NOT_INSTALLED_BY_US:
                    continue
                size = path.lstat().st_size
                if path.suffix == ".pyc":
                    bytecode += size
                else:
                    files += size
        return files, bytecode


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=plain_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstallError(str(error)) from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").split()
        raise CannotInstallError(" ".join(words)[-_SHOWN_CHARACTERS:])

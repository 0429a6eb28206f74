"""Chooses the shell of `iris shell`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

_NO_SHELLS = ("nologin", "false")


def choose_shell(env: Mapping[str, str]) -> str:
    """Return the path of the first shell that exists: the shell in the variable `SHELL`, bash, or sh. The programs
    `nologin` and `false` do not count as shells.

    Args:
        env: The environment of the task.
    """
    named = env.get("SHELL", "")
    if os.path.isabs(named) and os.path.basename(named) not in _NO_SHELLS and os.access(named, os.X_OK):
        return named
    path = env.get("PATH", os.defpath)
    return shutil.which("bash", path=path) or shutil.which("sh", path=path) or "/bin/sh"

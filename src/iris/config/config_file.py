"""Reads the TOML file of `iris up --config`, which has the same keys and values as `ClusterConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iris.config import kinds
from iris.config.cluster_config import ClusterConfig
from iris.errors import FailedPreconditionError, InvalidArgumentError


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a configuration file in TOML, and return its checked values by option. A relative path in the file starts at
    the directory of the file.

    Raises:
        FailedPreconditionError: The file cannot be read.
        InvalidArgumentError: The file is not valid TOML, or has an unknown key or a value that is not accepted.
    """
    # The import is inside the function, because every process of Iris imports this module, but few processes read a
    # configuration file.
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FailedPreconditionError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is not valid TOML: {error}") from None
    return {name: _read_entry(path, name, value) for name, value in content.items()}


def _read_entry(path: Path, name: str, value: object) -> Any:
    try:
        ClusterConfig.check_key(name)
        option = ClusterConfig.options[name]
        if option.kind in (kinds.FILE, kinds.DIRECTORY) and isinstance(value, str) and value:
            value = str(path.absolute().parent / value)
        return option.read(value)
    except InvalidArgumentError as error:
        file_and_key = f"{path}: {name}" if name in ClusterConfig.options else str(path)
        raise InvalidArgumentError(f"{file_and_key}: {error}") from None


def known_options(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in a document that this release knows, with their checked values. Unknown options and values
    that are not accepted are dropped, because another release of Iris may have written the document.
    """
    found = {}
    for name, value in document.items():
        if name in ClusterConfig.options:
            try:
                found[name] = ClusterConfig.options[name].read(value)
            except InvalidArgumentError:
                continue
    return found

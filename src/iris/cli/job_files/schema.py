"""Makes the JSON schema of job files from the options of `iris run`, for editors and other programs."""

from __future__ import annotations

import json
from typing import Any

import click

from iris.cli.job_files.job_file import COMMAND, TABLES, keys_of

_SCALAR = {"type": ["string", "number"]}


def schema_text(command: click.Command) -> str:
    """Return the JSON schema of job files as text."""
    properties = {key: _property(key, parameter) for key, parameter in keys_of(command).items()}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job file of iris run -f",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    return json.dumps(schema, indent=2) + "\n"


def _property(key: str, parameter: click.Parameter) -> dict[str, Any]:
    if not isinstance(parameter, click.Option):
        about = "The command: the program and its arguments."
        return {"description": about, "type": "array", "items": {"type": "string"}, "minItems": 1}
    found: dict[str, Any] = {"description": parameter.help or ""}
    if parameter.is_flag:
        return found | {"type": "boolean"}
    if parameter.multiple or key == COMMAND:
        several = {"type": "array", "items": _SCALAR}
        if key in TABLES:
            return found | {"anyOf": [several, {"type": "object", "additionalProperties": _SCALAR}]}
        return found | several
    if isinstance(parameter.type, click.Choice):
        return found | {"enum": list(parameter.type.choices)}
    return found | _SCALAR

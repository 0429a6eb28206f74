"""Prints the JSON schema of job files: `python -m iris.cli.job_files`."""

from __future__ import annotations

import click

from iris.cli.commands.submission.run import run
from iris.cli.job_files.schema import schema_text

click.echo(schema_text(run), nl=False)

"""`iris completion`."""

from __future__ import annotations

import click

from iris.cli.completion import COMPLETION_VARIABLE
from iris.cli.options import CONTEXT

_HELP = """\
Print a script with which a shell completes commands, options, ids of jobs and tasks, and names of files.

\b
  iris completion bash     add to ~/.bashrc: eval "$(iris completion bash)"
  iris completion zsh      add to ~/.zshrc, after compinit: eval "$(iris completion zsh)"
  iris completion fish > ~/.config/fish/completions/iris.fish

Ids are read from the cluster while you type. If the cluster does not answer within 2 s, no ids are completed.
"""


@click.command(help=_HELP, short_help="Print a script that makes a shell complete words.", context_settings=CONTEXT)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """See `_HELP`."""
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    script = kind(context.find_root().command, {}, "iris", COMPLETION_VARIABLE)
    # `script.source()` would start bash only to check its version. The template needs bash 4.4, which was released in
    # 2016.
    click.echo(script.source_template % script.source_vars())

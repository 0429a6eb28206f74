"""`iris web`."""

from __future__ import annotations

import os
import sys
import webbrowser
from urllib.parse import urlsplit

import click

from iris.cli.cluster.connect import connect
from iris.cli.cluster.lookup import Lookup
from iris.cli.completion import JobName
from iris.cli.options import address_option, json_option
from iris.cli.output.printer import Output
from iris.cluster.client.operations.tokens import web_link
from iris.rpc.address import is_loopback

_HELP = """\
Open the cluster's web page in your browser. The page shows the jobs, their logs while they are written, and the
machines. The browser is signed in with your name and your role until your token expires, but at most 30 days. On a
machine without a browser, the command prints the link instead.

JOB is an id, the beginning of an id, a task (JOB/task-2), or '@' for your latest job. Default: the list of jobs.

\b
  iris web
  iris web train-1a2b3c4d
  iris web @/task-2                              the log of this task
  iris web --print                               for a browser on another machine

The sign-in link works once, within five minutes. Whoever opens the link first is signed in, so do not share it. 'iris
token create NAME --role reader' makes a token with which another person can sign in.
"""


@click.command(help=_HELP, short_help="Open the page of the cluster in a browser.")
@click.option("--print", "print_only", is_flag=True, help="Print the sign-in link instead of opening it in a browser.")
@json_option('Print one JSON document, and open no browser: {"url", "expires_at_ms"}.')
@address_option
@click.argument("job", type=JobName(with_tasks=True), required=False)
def web(*, job: str | None, print_only: bool, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        cluster = connection.client.cluster
        target = None if job is None else Lookup(connection.client, with_tasks=False).one(job)
        base = cluster.controller_address
        shown = ("", None) if target is None else (target.job.job_id, target.task_index)
        if not print_only and not as_json and _has_browser():
            # All users of this machine can see the link on the command line of the browser. Therefore the code in this
            # link works only for the same user.
            code = cluster.create_sign_in_code(same_user=True)
            if _open_graphically(web_link(base, code.code, *shown)):
                output.note(f"the page of {base} opens in your browser; if it does not: iris web --print")
                return
        code = cluster.create_sign_in_code()
    link = web_link(base, code.code, *shown)
    output.answer({"url": link, "expires_at_ms": code.expires_at_ms}, lambda: link)
    if as_json:
        return
    output.note("the link works once, within five minutes")
    port = urlsplit(base).port
    if is_loopback(base) and os.environ.get("SSH_CONNECTION"):
        forward = f"ssh -L {port}:localhost:{port} HOST"
        output.note(f"for a browser on your own machine, forward the port first: {forward}")


def _open_graphically(link: str) -> bool:
    """Open a link in a graphical browser or in the program that BROWSER names, and return whether that has worked."""
    # Without TERM, `webbrowser` registers no text browsers. A text browser would occupy the terminal, and cannot show
    # the page. The browsers are registered at the first call.
    terminal = os.environ.pop("TERM", None)
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    finally:
        if terminal is not None:
            os.environ["TERM"] = terminal
    return webbrowser.open(link)


def _has_browser() -> bool:
    """Return whether this machine probably has a graphical browser. Without a display, Python would start a text
    browser in the terminal, and a text browser cannot show the page.
    """
    return sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))

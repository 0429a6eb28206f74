"""`iris webhooks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import connect
from iris.cli.options import address_option, json_option
from iris.cli.output.printer import Output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from iris.rpc import cluster_pb2

_HELP = """\
Show the URLs to which the cluster sends events, and whether the deliveries succeed. Only admins may see the URLs. The
paths of the URLs are left out, because they may be secret.

'iris up --webhook URL' sends events to a URL. docs/how-to/react-to-events.md describes the requests.

\b
  iris webhooks
  iris webhooks --json | jq -r '.webhooks[] | select(.failing_since_ms) | .problem'
"""


@click.command(help=_HELP, short_help="Show where events are sent, and whether this succeeds.")
@json_option()
@address_option
def webhooks(*, as_json: bool, address: str | None) -> None:
    """See `_HELP`."""
    output = Output(as_json=as_json)
    with connect(address) as connection:
        found = connection.client.cluster.list_webhooks()
    output.answer({"webhooks": [_document(webhook) for webhook in found]}, lambda: _table(found))


def _document(webhook: cluster_pb2.Controller.WebhookStatus) -> dict[str, Any]:
    return {
        "url": webhook.url,
        "kinds": list(webhook.kinds),
        "num_delivered": webhook.num_delivered,
        "num_dropped": webhook.num_dropped,
        "num_waiting": webhook.num_waiting,
        "failing_since_ms": webhook.failing_since_ms or None,
        "problem": webhook.problem or None,
        "retry_at_ms": webhook.retry_at_ms or None,
    }


def _table(found: Sequence[cluster_pb2.Controller.WebhookStatus]) -> str | RenderableType:
    from rich.text import Text

    from iris.cli.output.columns import Columns
    from iris.cli.output.tables import plain, words_of_time
    from iris.system.clock import now_ms

    if not found:
        return "no webhooks: 'iris up --webhook URL' sends events to a URL"
    table = Columns("URL", "STATE", "DELIVERED", "WAITING", "DROPPED", "")
    for webhook in found:
        failing_ms = now_ms() - webhook.failing_since_ms if webhook.failing_since_ms else 0
        state = Text(f"failing for {words_of_time(failing_ms)}", "red") if failing_ms else Text("ok", "green")
        table.add_row(
            plain(webhook.url),
            state,
            str(webhook.num_delivered),
            str(webhook.num_waiting),
            str(webhook.num_dropped),
            plain(webhook.problem or ", ".join(webhook.kinds)),
        )
    return table

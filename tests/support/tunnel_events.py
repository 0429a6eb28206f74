"""Checks the events about the use of a tunnel."""

from __future__ import annotations

from support.waiting import wait_until

from iris.client import IrisClient


def assert_one_use_is_recorded(client: IrisClient, job_id: str, kind: str) -> None:
    """Wait for the end of a job's newest tunnel, and check that its use has one event of each kind.

    Args:
        client: The client.
        job_id: The job.
        kind: `exec` or `tunnel`.
    """

    def kinds() -> list[str]:
        events = list(client.events(job_id, kinds=[f"{kind}.*"]))
        # The event may not be stored yet.
        used = next((event for event in reversed(events) if event.name == f"{kind}.used"), None)
        return [event.name for event in events if used and event.fields["tunnel_id"] == used.fields["tunnel_id"]]

    wait_until(lambda: f"{kind}.closed" in kinds(), "the end of the tunnel")
    assert kinds() == [f"{kind}.opened", f"{kind}.used", f"{kind}.closed"]

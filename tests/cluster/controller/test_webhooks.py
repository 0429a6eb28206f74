"""The delivery of events to a receiver that fails: retries, order, events that are given up, and stored places."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from support.ports import free_port
from support.waiting import wait_until
from support.webhook_receiver import Receiver, receiving

from iris.cluster.controller.events.event_rows import Event, EventFilter
from iris.cluster.controller.events.event_streams import EventPages
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.events.logged_events import LoggedEvents
from iris.cluster.controller.events.webhooks.delivery import (
    MAX_REFUSALS,
    WebhookDelivery,
    WebhookSettings,
    stored_places,
)
from iris.cluster.controller.events.webhooks.secret import find_secret
from iris.cluster.controller.events.webhooks.sender import WebhookSender
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.errors import DataLossError, FailedPreconditionError
from iris.system.backoff import Backoff

pytestmark = pytest.mark.anyio
SECRET = "a secret of this test"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class BrokenOnce(EventPages):
    """Pages of events of which the first cannot be read."""

    is_broken = True

    async def page(self, after: int, chosen: EventFilter) -> tuple[list[Event], int]:
        if self.is_broken:
            self.is_broken = False
            raise DataLossError("the database is damaged")
        return await super().page(after, chosen)


class Deliveries:
    """A saver with a journal, and the delivery to one webhook, which a test can end and start again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.max_age_ms = 10**9
        self.open()

    def open(self) -> None:
        self.store = Store(self._path)
        self.journal = EventJournal(self.store)
        self.saver = Saver(self.store, self.journal)
        self.threads = StoredJobs(self.store)
        self.pages = EventPages(self.journal, self.store, self.threads)
        self._saving = asyncio.create_task(self._save())
        self._handler = LoggedEvents(self.saver.add_event)
        logging.getLogger("iris").addHandler(self._handler)

    async def _save(self) -> None:
        async with aclosing(self.saver.batches()) as batches:
            async for _ in batches:
                pass

    def add(self, *names: str, time_ms: int = 0) -> None:
        for name in names:
            self.saver.add_event(Event(name=name, level="info", job_id="train", time_ms=time_ms))

    def start(self, url: str, *kinds: str) -> None:
        settings = WebhookSettings(url, kinds or ("job.*",), SECRET)
        places = stored_places(self.store, [settings.url_hash], self.journal.last_number)
        self.delivery = WebhookDelivery(
            settings,
            WebhookSender(url, None),
            places[settings.url_hash],
            self.journal,
            self.pages,
            self.saver,
            pauses=Backoff(0.001, 0.01),
            max_age_ms=self.max_age_ms,
        )
        self._running = asyncio.create_task(self.delivery.run())

    async def stop(self) -> None:
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    async def close(self) -> None:
        logging.getLogger("iris").removeHandler(self._handler)
        await self.stop()
        self._saving.cancel()
        await asyncio.gather(self._saving, return_exceptions=True)
        await self.saver.close()
        self.threads.close()
        self.store.close()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await asyncio.to_thread(wait_until, condition, what)

    async def until_delivered(self, count: int) -> None:
        loop = asyncio.get_running_loop()

        def delivered() -> bool:
            status = asyncio.run_coroutine_threadsafe(self.delivery.status(), loop).result()
            return status.num_delivered >= count

        await self.until(delivered, f"{count} delivered events")

    async def kinds_recorded(self) -> list[str]:
        await self.saver.settled()
        return [event.name for event in self.journal.recent_after(0)]


@pytest.fixture
async def world(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Deliveries]:
    caplog.set_level(logging.INFO, "iris")
    made = Deliveries(tmp_path / "controller.db")
    yield made
    await made.close()


def ids(receiver: Receiver) -> list[str]:
    return [document["id"] for document in receiver.documents()]


async def test_webhook_event_is_sent_again_in_order_until_the_receiver_accepts_it(world: Deliveries) -> None:
    with receiving() as receiver:
        receiver.statuses = [503, 500, 429, 204]
        world.start(receiver.url)
        world.add("job.failed", "worker.lost", "job.killed")
        await world.until(lambda: len(receiver.requests) == 5, "four tries of the first event, and the second event")
        assert [document["kind"] for document in receiver.documents()] == ["job.failed"] * 4 + ["job.killed"]
        assert len(set(ids(receiver)[:4])) == 1
        await world.until_delivered(2)
        status = await world.delivery.status()
        assert (status.num_delivered, status.num_dropped, status.problem) == (2, 0, "")
    recorded = await world.kinds_recorded()
    assert [kind for kind in recorded if kind.startswith("webhook")] == ["webhook.failing", "webhook.recovered"]


async def test_each_webhook_request_is_signed_together_with_its_time(world: Deliveries) -> None:
    with receiving() as receiver:
        world.start(receiver.url)
        world.add("job.failed")
        await world.until(lambda: receiver.requests, "a request")
        ((headers, body),) = receiver.requests
    mac = hmac.new(SECRET.encode(), f"{headers['iris-timestamp']}.".encode() + body, hashlib.sha256)
    assert headers["iris-signature"] == f"v1={mac.hexdigest()}"
    assert headers["iris-event-id"] == receiver.documents()[0]["id"]
    assert headers["content-type"] == "application/json"


async def test_webhook_event_that_is_refused_for_good_is_given_up_and_the_next_event_is_sent(world: Deliveries) -> None:
    with receiving() as receiver:
        receiver.statuses = [400] * MAX_REFUSALS
        world.start(receiver.url)
        world.add("job.failed", "job.killed")
        await world.until_delivered(1)
        assert len(receiver.requests) == MAX_REFUSALS + 1
        status = await world.delivery.status()
        assert (status.num_delivered, status.num_dropped) == (1, 1)
    assert "webhook.dropped" in await world.kinds_recorded()


async def test_old_event_is_given_up_while_the_receiver_of_the_webhook_is_dead(world: Deliveries) -> None:
    world.max_age_ms = 0
    world.start(f"http://127.0.0.1:{free_port()}/a)hidden?key=hidden")
    world.add("job.failed", time_ms=1)
    await world.until(lambda: "webhook.dropped" in [one.name for one in world.journal.recent_after(0)], "the drop")
    status = await world.delivery.status()
    assert (status.num_dropped, status.num_waiting) == (1, 0)
    assert status.url.startswith("http://127.0.0.1:")
    assert "/" not in status.url.removeprefix("http://")
    # Every user may read the texts of events. Therefore they must not contain the path of the URL.
    (drop,) = [event for event in world.journal.recent_after(0) if event.name == "webhook.dropped"]
    assert drop.text.startswith("the connection failed: ")
    assert "hidden" not in drop.text


async def test_webhook_events_that_are_given_up_in_a_row_are_reported_together(world: Deliveries) -> None:
    world.max_age_ms = 0
    world.start(f"http://127.0.0.1:{free_port()}/")
    world.add(*["job.failed"] * 5, time_ms=1)
    await world.until(lambda: "webhook.dropped" in [one.name for one in world.journal.recent_after(0)], "the drop")
    drops = [event for event in world.journal.recent_after(0) if event.name == "webhook.dropped"]
    assert [(event.fields["count"], event.fields["event_id"]) for event in drops] == [("5", world.journal.cursor(5))]


async def test_webhook_delivery_continues_after_an_error_of_the_database(world: Deliveries) -> None:
    with receiving() as receiver:
        world.pages = BrokenOnce(world.journal, world.store, world.threads)
        world.start(receiver.url)
        world.add("job.failed")
        await world.until_delivered(1)
    assert "server.error" in await world.kinds_recorded()


async def test_webhook_redirect_is_not_followed_and_is_named_as_the_problem(world: Deliveries) -> None:
    with receiving() as receiver:
        receiver.status = 307
        world.start(receiver.url)
        world.add("job.failed")
        await world.until(lambda: len(receiver.requests) >= 2, "a second try")
        status = await world.delivery.status()
    assert "HTTP status 307 (a redirect, which is not followed)" in status.problem
    assert status.failing_since_ms
    assert status.num_waiting == 1


async def test_restarted_controller_sends_a_webhook_only_events_that_were_not_delivered(
    world: Deliveries, tmp_path: Path
) -> None:
    with receiving() as receiver:
        world.start(receiver.url)
        world.add("job.submitted", "job.failed")
        # A request that is under way when the delivery ends would be sent again.
        await world.until_delivered(2)
        await world.close()
        world.open()
        world.add("job.killed")
        world.start(receiver.url)
        await world.until(lambda: len(receiver.requests) == 3, "the event of the second run")
        assert [document["kind"] for document in receiver.documents()] == ["job.submitted", "job.failed", "job.killed"]


async def test_new_webhook_gets_only_events_from_now_on(world: Deliveries) -> None:
    world.add("job.failed")
    await world.until(lambda: world.journal.last_number == 1, "the first event")
    with receiving() as receiver:
        world.start(receiver.url)
        world.add("job.killed")
        await world.until(lambda: receiver.requests, "a request")
        assert [document["kind"] for document in receiver.documents()] == ["job.killed"]


async def test_webhook_gets_no_events_about_itself(world: Deliveries) -> None:
    with receiving() as receiver:
        receiver.statuses = [500]
        world.start(receiver.url, "webhook.*", "job.*")
        world.add("job.failed")
        await world.until(lambda: len(receiver.requests) == 2, "a second try")
        world.add("job.killed")
        await world.until(lambda: len(receiver.requests) == 3, "the next event")
        assert [document["kind"] for document in receiver.documents()] == ["job.failed"] * 2 + ["job.killed"]


def test_webhook_secret_comes_from_the_given_file_or_the_environment_or_is_generated(tmp_path: Path) -> None:
    own, given = tmp_path / "webhook.secret", tmp_path / "given"
    made = find_secret("", "", own)
    assert len(made) == 64
    assert own.stat().st_mode & 0o077 == 0
    assert find_secret("", "", own) == made
    assert find_secret("", "from the environment", own) == "from the environment"
    assert find_secret("", "", own) == "from the environment"
    own.write_text("\n")
    assert len(find_secret("", "", own)) == 64
    given.write_text("from the operator's file\n")
    with pytest.raises(FailedPreconditionError, match="can be read by others"):
        find_secret(str(given), "", own)
    given.chmod(0o600)
    assert find_secret(str(given), "", own) == "from the operator's file"
    given.write_text("short")
    with pytest.raises(FailedPreconditionError, match="at least 16 characters, got 5"):
        find_secret(str(given), "", own)
    with pytest.raises(FailedPreconditionError, match="there is no file"):
        find_secret(str(tmp_path / "none"), "", own)

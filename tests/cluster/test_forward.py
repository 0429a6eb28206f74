"""Ports of tasks that a client reaches through the controller: every protocol over TCP, and what breaks meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.chaos_proxy import ChaosProxy, Faults, gentle
from support.cluster import unique
from support.port_server import digest_of, stream_of
from support.ports import free_port
from support.standing_cluster import StandingCluster, standing_cluster
from support.tokens import token
from support.tunnel_events import assert_one_use_is_recorded
from support.waiting import wait_until
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage

from iris.client import IrisClient, Job
from iris.client.aio import AsyncIrisClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, PermissionDeniedError
from iris.reasons import ErrorReason

PROGRAM = Path(__file__).parents[1] / "support" / "port_server.py"
NAMES = ["echo", "source", "sink", "web", "rude", "other"]
MIB = 1024**2


def serve(client: IrisClient, *names: str, **options: object) -> Job:
    """Run a job with servers of `port_server.py`, and wait until all of them listen."""
    ports = [name for name in names if name != "other"]
    job = client.run([sys.executable, str(PROGRAM), *names], name=unique("ports"), ports=ports, **options)  # type: ignore[arg-type]
    assert next(iter(job.logs(follow=True))).message == "listening"
    return job


@pytest.fixture(scope="module")
def job(shared_cluster: LocalServer) -> Iterator[Job]:
    """A job with all servers."""
    with IrisClient.remote(shared_cluster.address) as client:
        started = serve(client, *NAMES)
        yield started
        started.terminate()


@pytest.fixture
def connect(client: IrisClient, job: Job) -> Iterator[Callable[[int | str], socket.socket]]:
    """Returns a connection to a port of the job, through a forward."""
    with ExitStack() as opened:

        def to(port: int | str) -> socket.socket:
            forward = opened.enter_context(client.forward(job.job_id, port))
            return opened.enter_context(dial(forward.address))

        yield to


def dial(address: str) -> socket.socket:
    parts = urlsplit(f"//{address}")
    connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    connection.settimeout(60)
    return connection


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while data := connection.recv(MIB):
        parts.append(data)
    return b"".join(parts)


def receive_digest(connection: socket.socket) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while data := connection.recv(MIB):
        size += len(data)
        digest.update(data)
    return size, digest.hexdigest()


# Protocols.


def test_http_request_to_a_named_port_is_answered_by_the_task(client: IrisClient, job: Job) -> None:
    with client.forward(job.job_id, "web") as forward:
        assert forward.url == f"http://127.0.0.1:{forward.local_port}"
        with urllib.request.urlopen(f"{forward.url}/hello") as answer:
            assert answer.read() == b'{"attempt":"0"}'
        assert repr(forward) == f"<Forward of {job.job_id}/task-0: {forward.address} -> port web>"
    assert repr(client.forward(job.job_id, 80)) == f"<Forward of {job.job_id}/task-0, not open>"


def test_websocket_through_a_forwarded_port_carries_messages_in_both_directions(
    connect: Callable[[str], socket.socket],
) -> None:
    connection, websocket = connect("web"), WSConnection(ConnectionType.CLIENT)
    connection.sendall(websocket.send(Request(host="task", target="/ws")))
    seen: list[str] = []
    while "END" not in seen:
        websocket.receive_data(connection.recv(65536))
        for event in websocket.events():
            if isinstance(event, AcceptConnection):
                for text in ("first", "second", "end"):
                    connection.sendall(websocket.send(TextMessage(data=text)))
            elif isinstance(event, TextMessage):
                seen.append(event.data)
    assert seen == ["FIRST", "SECOND", "END"]


def test_forwarded_connection_closed_in_one_direction_stays_open_in_the_other(
    connect: Callable[[str], socket.socket],
) -> None:
    connection = connect("sink")
    connection.sendall(b"hello")
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == f"5 {hashlib.sha256(b'hello').hexdigest()}\n".encode()


def test_large_download_through_a_forwarded_port_arrives_complete(connect: Callable[[str], socket.socket]) -> None:
    connection = connect("source")
    connection.sendall(b"%d\n" % (20 * MIB))
    assert receive_digest(connection) == (20 * MIB, digest_of(20 * MIB))


def test_large_upload_through_a_forwarded_port_arrives_complete(connect: Callable[[str], socket.socket]) -> None:
    connection = connect("sink")
    for chunk in stream_of(10 * MIB):
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == f"{10 * MIB} {digest_of(10 * MIB)}\n".encode()


def test_paused_reader_of_a_forwarded_port_gets_all_bytes_and_delays_no_other_connection(
    client: IrisClient, job: Job
) -> None:
    with (
        client.forward(job.job_id, "source") as source,
        closing(dial(source.address)) as slow,
        closing(dial(source.address)) as other,
    ):
        slow.sendall(b"%d\n" % (16 * MIB))
        assert len(slow.recv(1)) == 1
        other.sendall(b"%d\n" % (4 * MIB))
        assert receive_digest(other) == (4 * MIB, digest_of(4 * MIB))
        assert receive_digest(slow)[0] == 16 * MIB - 1


def test_hundreds_of_short_forwarded_connections_at_once_are_all_answered(client: IrisClient, job: Job) -> None:
    def exchange(number: int) -> bytes:
        with closing(dial(forward.address)) as connection:
            connection.sendall(b"%d" % number)
            connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    with client.forward(job.job_id, "echo") as forward, ThreadPoolExecutor(50) as threads:
        assert list(threads.map(exchange, range(400))) == [b"%d" % number for number in range(400)]


def test_reset_by_the_task_resets_the_local_connection(connect: Callable[[str], socket.socket]) -> None:
    connection = connect("rude")
    connection.sendall(b"x")
    assert connection.recv(3) == b"abc"
    connection.sendall(b"y")
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_async_forward_serves_connections_on_the_event_loop(shared_cluster: LocalServer, job: Job) -> None:
    async def run() -> bytes:
        async with (
            AsyncIrisClient.remote(shared_cluster.address) as client,
            client.forward(job.job_id, "echo", local_host="::1") as forward,
        ):
            assert forward.address == f"[::1]:{forward.local_port}"
            reader, writer = await asyncio.open_connection("::1", forward.local_port)
            writer.write(b"hello")
            writer.write_eof()
            waiting = asyncio.create_task(forward.wait(math.inf))
            with pytest.raises(TimeoutError, match=r"has not ended within 0\.01 s"):
                await forward.wait(0.01)
            received = await reader.read(-1)
        with pytest.raises(FailedPreconditionError, match="the forwarding of ports was closed"):
            await waiting
        return received

    assert asyncio.run(run()) == b"hello"


# Which ports can be reached.


def test_port_on_which_the_task_listens_is_reached_by_its_number(
    connect: Callable[[int], socket.socket], job: Job
) -> None:
    lines = wait_until(lambda: len(lines := list(job.logs())) > 1 and lines, "the line with the number of the port")
    connection = connect(int(lines[1].message))
    connection.sendall(b"ping")
    assert connection.recv(4) == b"ping"


def test_port_of_another_process_on_the_machine_is_not_reached(client: IrisClient, job: Job) -> None:
    notes: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port, local = foreign.getsockname()[1], free_port()
        forward = client.forward(job.job_id, port, local_port=local, on_notice=notes.append)
        with forward, closing(dial(forward.address)) as connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
        foreign.setblocking(False)
        with pytest.raises(BlockingIOError):
            foreign.accept()
    (note,) = notes
    assert note.startswith("a connection was reset: ")
    assert "does not belong to the task" in note
    assert f"{port} is the port of the task, and {local} the local port" in note


def test_forward_to_its_own_local_port_resets_the_connection_and_suggests_another_local_port(
    client: IrisClient, job: Job
) -> None:
    notes: list[str] = []
    port = free_port()
    forward = client.forward(job.job_id, port, local_port=port, on_notice=notes.append)
    with forward, closing(dial(forward.address)) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    (note,) = notes
    assert f"no process of task {job.job_id}/task-0 listens on port {port}" in note
    assert f"choose another local port, for example with {port}:0" in note


def test_name_of_a_port_that_the_job_has_not_requested_is_refused(client: IrisClient, job: Job) -> None:
    with pytest.raises(NotFoundError, match="has no port named 'nope'; its ports are: echo, rude, sink, source, web"):
        client.forward(job.job_id, "nope").__enter__()


@pytest.mark.parametrize("port", [0, 65536, -1, 1.5, "80", "", True, None])
def test_port_that_is_neither_a_number_nor_a_name_is_refused(client: IrisClient, port: object) -> None:
    with pytest.raises(InvalidArgumentError, match="port"):
        client.forward("job", port)  # type: ignore[arg-type]


def test_error_for_a_local_port_in_use_names_the_port(client: IrisClient, job: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        number = used.getsockname()[1]
        with pytest.raises(
            FailedPreconditionError, match=f"cannot listen on local port {number} at 127.0.0.1: another"
        ):
            client.forward(job.job_id, "echo", local_port=number).__enter__()


def test_method_wait_of_a_forward_that_is_not_open_is_refused(client: IrisClient, job: Job) -> None:
    with pytest.raises(FailedPreconditionError, match="is not open"):
        client.forward(job.job_id, "echo").wait(0)


# Who may reach a port.


@pytest.mark.parametrize(("role", "name"), [("user", "somebody"), ("reader", "tests")])
def test_another_user_or_a_reader_may_not_reach_a_port_of_a_task(
    shared_cluster: LocalServer, job: Job, role: str, name: str
) -> None:
    with (
        IrisClient.remote(shared_cluster.address, token=token(role, name=name)) as other,
        pytest.raises(PermissionDeniedError, match="OpenTunnel"),
    ):
        other.forward(job.job_id, "echo").__enter__()


def test_owner_of_a_job_may_reach_a_port_of_its_tasks(shared_cluster: LocalServer, job: Job) -> None:
    with (
        IrisClient.remote(shared_cluster.address, token=token("user", name="tests")) as owner,
        owner.forward(job.job_id, "echo") as forward,
        closing(dial(forward.address)) as connection,
    ):
        connection.sendall(b"ping")
        assert connection.recv(4) == b"ping"


# What changes while a forward is open.


def test_forward_waits_for_its_task_and_ends_when_the_task_ends(client: IrisClient) -> None:
    first = client.run(["sleep", "600"], name=unique("first"))
    command = [sys.executable, str(PROGRAM), "echo"]
    job = client.run(command, name=unique("ports"), ports=["echo"], after={first: "any"})
    with client.forward(job.job_id, "echo") as forward:
        with closing(dial(forward.address)) as connection:
            connection.sendall(b"early")
            first.terminate()
            assert connection.recv(5) == b"early"
        job.terminate()
        assert "has ended: KILLED" in forward.wait(60)
        with pytest.raises(ConnectionRefusedError):
            dial(forward.address)
    refused = client.forward(job.job_id, "echo")
    with pytest.raises(FailedPreconditionError, match="has ended: KILLED"):
        refused.__enter__()
    with pytest.raises(FailedPreconditionError, match="the forwarding of ports is not open"):
        refused.wait()


def test_async_forward_refuses_connections_after_the_end_of_the_task(shared_cluster: LocalServer) -> None:
    async def run() -> None:
        async with AsyncIrisClient.remote(shared_cluster.address) as client:
            first = await client.run(["sleep", "600"], name=unique("first"))
            job = await client.run(["true"], name=unique("second"), after={first: "ok"})
            async with client.forward(job.job_id, 80) as forward:
                reader, _ = await asyncio.open_connection("127.0.0.1", forward.local_port)
                await first.terminate()
                with pytest.raises(ConnectionResetError):
                    await reader.read()  # The connection waits for an attempt, and none will come.
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", forward.local_port)
                assert "has ended: UNSCHEDULABLE" in await forward.wait()
            with pytest.raises(FailedPreconditionError, match="was opened before"):
                await forward.__aenter__()

    asyncio.run(run())


def test_forward_listens_on_only_one_address_of_a_host_name(client: IrisClient, job: Job) -> None:
    with client.forward(job.job_id, "echo", local_host="localhost") as forward:
        assert forward.address == f"localhost:{forward.local_port}"
        with closing(dial(forward.address)) as connection:
            connection.sendall(b"ping")
            assert connection.recv(4) == b"ping"
    with pytest.raises(FailedPreconditionError, match="was opened before"):
        forward.__enter__()


# A server of HTTP that answers with the number of its attempt, and ends at the request for `/die`.
_MORTAL_SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/die':
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ['IRIS_ATTEMPT_ID'].encode())
http.server.HTTPServer(('127.0.0.1', int(os.environ['IRIS_PORT_WEB'])), Handler).serve_forever()
"""


def test_forwarded_connections_reach_the_next_attempt_after_a_retry(client: IrisClient) -> None:
    job = client.run([sys.executable, "-c", _MORTAL_SERVER], name=unique("retry"), ports=["web"], max_retries_failure=1)
    with client.forward(job.job_id, "web") as forward:
        assert urllib.request.urlopen(forward.url).read() == b"0"
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{forward.url}/die").read()

        def attempt() -> bytes:
            try:
                answer: bytes = urllib.request.urlopen(forward.url).read()
            except OSError:
                return b""  # The dying attempt may have accepted one more connection.
            return answer

        assert wait_until(lambda: (seen := attempt()) != b"0" and seen, "the next attempt") == b"1"
    job.terminate()


def _breaks_soon(chance: random.Random) -> Faults:
    return Faults(chance.choice(("cut", "reset", "half-close")), after_bytes=chance.randint(10_000, 600_000))


def test_transfers_through_a_forwarded_port_survive_broken_connections(shared_cluster: LocalServer, job: Job) -> None:
    target = "127.0.0.1", urlsplit(shared_cluster.address).port or 0
    with (
        ChaosProxy(target, gentle, seed=5) as proxy,
        IrisClient.remote(proxy.address) as client,
        client.forward(job.job_id, "source") as source,
        client.forward(job.job_id, "sink") as sink,
        closing(dial(source.address)) as down,
        closing(dial(sink.address)) as up,
    ):
        proxy.plan = _breaks_soon
        proxy.strike()
        down.sendall(b"%d\n" % (3 * MIB))
        uploading = threading.Thread(target=_upload, args=(up, MIB))
        uploading.start()
        assert receive_digest(down) == (3 * MIB, digest_of(3 * MIB))
        uploading.join()
        assert read_all(up) == f"{MIB} {digest_of(MIB)}\n".encode()
        assert proxy.faults.total() > 3
        proxy.plan = gentle


def test_forwarded_connection_waits_while_the_controller_cannot_be_reached(
    shared_cluster: LocalServer, job: Job
) -> None:
    target = "127.0.0.1", urlsplit(shared_cluster.address).port or 0
    with (
        ChaosProxy(target, gentle) as proxy,
        IrisClient.remote(proxy.address) as client,
        client.forward(job.job_id, "echo") as forward,
        closing(dial(forward.address)) as connection,
    ):
        connection.sendall(b"before")
        assert connection.recv(6) == b"before"
        with proxy.refusing():
            proxy.strike()
            connection.sendall(b"during")
        assert connection.recv(6) == b"during"
    with IrisClient.remote(shared_cluster.address) as client:
        assert_one_use_is_recorded(client, job.job_id, "tunnel")


def _upload(connection: socket.socket, size: int) -> None:
    for chunk in stream_of(size):
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)


# What breaks while a forward is open.


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """A cluster whose controller and workers are killed."""
    with standing_cluster(tmp_path_factory.mktemp("mortal") / "state", workers=2) as started:
        yield started


def test_transfer_through_a_forwarded_port_continues_after_a_kill_of_the_controller(mortal: StandingCluster) -> None:
    with IrisClient.remote(mortal.address) as client:
        job = serve(client, "source")
        with client.forward(job.job_id, "source") as forward, closing(dial(forward.address)) as connection:
            connection.sendall(b"%d\n" % (24 * MIB))
            begin = connection.recv(MIB)
            mortal.kill()
            mortal.start()
            rest = read_all(connection)
            digest = hashlib.sha256(begin + rest).hexdigest()
            assert (len(begin) + len(rest), digest) == (24 * MIB, digest_of(24 * MIB))
        log = (mortal.directory / "server.log").read_text()
        assert f"tunnel.used user=tests role=admin task_id={job.job_id}/task-0 attempt_id=0 port=source" in log
        job.terminate()


def echoes(address: str) -> bool:
    """Return whether a new connection is answered, and not reset."""
    with closing(dial(address)) as connection:
        connection.sendall(b"again")
        try:
            return connection.recv(5) == b"again"
        except ConnectionResetError:
            return False


def test_kill_of_the_worker_resets_the_connection_and_the_next_attempt_is_reached(mortal: StandingCluster) -> None:
    with IrisClient.remote(mortal.address) as client:
        job = serve(client, "source", "echo")
        notes: list[str] = []
        source = client.forward(job.job_id, "source", on_notice=notes.append)
        with source, client.forward(job.job_id, "echo") as echo, closing(dial(source.address)) as connection:
            connection.sendall(b"%d\n" % (200 * MIB))
            assert connection.recv(1)
            mortal.kill_worker(client.task_status(job.job_id, 0).worker_id)
            with pytest.raises(ConnectionResetError):
                read_all(connection)
            # On a busy machine, the program of the next attempt may need longer to listen than a connection waits.
            wait_until(lambda: echoes(echo.address), "an answer of the next attempt")
            assert client.task_status(job.job_id, 0).current_attempt_id == 1
        assert any("1 connection was" in note for note in notes), notes
        job.terminate()


def test_cluster_with_option_no_forward_opens_no_tunnel(mortal: StandingCluster) -> None:
    with IrisClient.remote(mortal.address) as client:
        job = client.run(["sleep", "600"], name=unique("job"))
        mortal.kill()
        mortal.start(no_forward=True)
        with pytest.raises(FailedPreconditionError, match="--no-forward") as caught:
            client.forward(job.job_id, 80).__enter__()
        assert caught.value.reason == ErrorReason.FORWARDING_OFF
        job.terminate()


# Ports of retries.


def test_retry_gets_the_same_ports_as_the_previous_attempt(client: IrisClient) -> None:
    job = client.run(
        ["sh", "-c", "echo $IRIS_PORT_WEB $IRIS_PORT_DB; exit 1"],
        name=unique("same"),
        ports=["web", "db"],
        max_retries_failure=2,
    )
    job.wait(raise_on_failure=False)
    lines = {line.message for line in job.logs()}
    assert len(list(client.task_status(job.job_id, 0).attempts)) == 3
    assert len(lines) == 1

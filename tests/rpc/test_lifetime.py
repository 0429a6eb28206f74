"""A client's life: its pauses and connections end with it, in its own process only."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from support.waiting import wait_until

from iris.errors import ClientClosedError
from iris.rpc.http.client.client_lifetime import Lifetime


def blocked(work: object) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()  # type: ignore[operator]
        except ClientClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def test_close_ends_a_pause_of_another_thread_with_an_error() -> None:
    life = Lifetime("the client of nobody")
    thread, errors = blocked(lambda: life.pause(3600))
    life.close()
    thread.join(30)
    assert [str(error).partition(":")[0] for error in errors] == ["the client of nobody was closed"]


def test_pause_and_check_of_a_closed_client_are_refused() -> None:
    life = Lifetime("the client of nobody")
    life.check()
    life.close()
    life.close()
    for work in (life.check, lambda: life.pause(0)):
        with pytest.raises(ClientClosedError, match="was closed"):
            work()


def test_blocked_read_ends_when_its_client_is_closed() -> None:
    life = Lifetime("the client of nobody")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        life.add(ours)
        thread, _ = blocked(lambda: ours.recv(1))
        life.close()
        thread.join(30)
        assert not thread.is_alive()
        assert theirs.recv(1) == b""


def test_connection_that_a_closed_client_opens_is_refused_and_ended() -> None:
    life = Lifetime("the client of nobody")
    life.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ClientClosedError):
            life.add(ours)
        assert theirs.recv(1) == b""


def test_client_does_not_keep_its_closed_connections() -> None:
    life = Lifetime("the client of nobody")
    for _ in range(100):
        ours, theirs = socket.socketpair()
        life.add(ours)
        ours.close()
        theirs.close()
        del ours
    assert len(life._sockets) == 0


def test_close_in_a_forked_child_leaves_the_parents_connections_open() -> None:
    life = Lifetime("the client of nobody")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        life.add(ours)
        child = os.fork()
        if child == 0:
            life.close()
            os._exit(life.is_closed - 1)
        assert wait_until(lambda: os.waitpid(child, os.WNOHANG)[0]) == child
        assert not life.is_closed
        ours.send(b"x")
        assert theirs.recv(1) == b"x"

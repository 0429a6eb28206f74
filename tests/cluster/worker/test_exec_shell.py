"""Which shell `iris shell` opens, and how messages travel over a channel."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iris.cluster.worker.exec.shell import choose_shell
from iris.rpc.cluster_pb2 import ExecControl
from iris.rpc.tunnels.message_stream import MessageWriter, frame


@pytest.mark.parametrize("named", ["", "sh", "/no/such/shell", "/usr/sbin/nologin", "/bin/false"])
def test_shell_that_cannot_be_used_is_replaced_by_bash_or_sh(tmp_path: Path, named: str) -> None:
    env = {"SHELL": named, "PATH": str(tmp_path)}
    assert choose_shell(env) == "/bin/sh"
    for name in ("sh", "bash"):
        program = tmp_path / name
        program.touch(mode=0o755)
        assert choose_shell(env) == str(program)


def test_shell_that_the_environment_names_is_chosen() -> None:
    assert choose_shell({"SHELL": "/bin/sh", "PATH": "/nowhere"}) == "/bin/sh"


def test_messages_of_an_exec_session_may_arrive_in_pieces_of_any_size() -> None:
    async def run(size: int) -> list[int]:
        seen: list[int] = []
        writer = MessageWriter(ExecControl, lambda message: seen.append(message.signal))
        data = b"".join(frame(ExecControl(signal=number)) for number in range(5))
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
        return seen

    for size in (1, 3, 1000):
        assert asyncio.run(run(size)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\xff\xff"])
def test_exec_channel_is_reset_by_bytes_that_do_not_form_a_message(data: bytes) -> None:
    async def run() -> None:
        writer = MessageWriter(ExecControl, lambda message: None)
        writer.write(data)
        with pytest.raises(OSError, match="a message of a channel"):
            await writer.drain()

    asyncio.run(run())

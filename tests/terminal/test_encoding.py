"""Printing does not fail because of a character that the output lacks, or a closed pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.cluster import shell, unique

from iris.cli.program import program
from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer
from iris.terminal.encoding import encode_text

ASCII_OUTPUTS = [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]


def commands(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands, with those of groups."""
    yield words
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, (*words, name))


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    return kept | more


def iris(*words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "iris.cli", *words], env=environment(**env), capture_output=True, timeout=60
    )


@pytest.mark.parametrize(
    ("text", "encoding", "data"),
    [
        ("… → é", "ascii", b"... -> \\xe9"),
        ("… é €", "latin-1", b"... \xe9 \\u20ac"),
        ("🙂", "ascii", b"\\U0001f642"),
        ("\ud800", "utf-8", b"\\ud800"),
        ("é", "no such encoding", b"\\xe9"),
    ],
)
def test_character_missing_in_the_encoding_of_an_output_is_replaced(text: str, encoding: str, data: bytes) -> None:
    assert encode_text(text, encoding) == data


def test_help_of_every_command_is_printed_to_an_ascii_output() -> None:
    every = [list(words) for words in commands(program)]
    assert ["token", "create"] in every
    loop = (
        "import sys\n"
        "from iris.cli.program import run_program\n"
        f"for words in {every!r}:\n"
        "    sys.argv = ['iris', *words, '--help']\n"
        "    code = run_program()\n"
        "    assert code == 0, (words, code)\n"
    )
    for env in ASCII_OUTPUTS:
        done = subprocess.run([sys.executable, "-c", loop], env=environment(**env), capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b""), env
        assert done.stdout.count(b"Usage: ") == len(every)


@pytest.mark.parametrize("env", ASCII_OUTPUTS, ids=str)
def test_errors_are_printed_to_an_ascii_output(env: dict[str, str]) -> None:
    for words, code in ((("nönsense",), 2), (("run", "--nämé", "x"), 2), (("--address", "nö:där", "ps"), 2)):
        done = iris(*words, **env)
        assert done.returncode == code, done
        assert b"Traceback" not in done.stderr
        done.stderr.decode("latin-1" if "latin-1" in env.values() else "ascii")


@pytest.mark.parametrize("words", [("--help",), ("token", "create", "--help"), ("nonsense",)])
def test_help_with_a_closed_pipe_ends_quietly(words: tuple[str, ...]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "iris.cli", *words], stdout=closed, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == (2 if words == ("nonsense",) else 141)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_answers_of_commands_and_log_lines_are_printed_to_an_ascii_output(
    shared_cluster: LocalServer, client: IrisClient
) -> None:
    name = unique("größe")
    job = client.run(shell("echo € 🙂"), name=name)
    job.wait()
    address = {"IRIS_CONTROLLER_ADDRESS": shared_cluster.address, "PYTHONIOENCODING": "ascii"}
    for words in (("ps",), ("status", name), ("machines",)):
        done = iris(*words, **address)
        assert done.returncode == 0, done
        done.stdout.decode("ascii")
    lines = [json.loads(line) for line in iris("logs", "--json", name, **address).stdout.decode("ascii").splitlines()]
    assert [line["message"] for line in lines if line["source"] == "stdout"] == ["€ 🙂"]
    assert json.loads(iris("status", name, "--json", **address).stdout.decode("ascii"))["job_id"] == name


# Only task 0 fails. A failure of task 1 could end the gang before task 0 has printed its line.
WAITS = """
import sys
from iris.client import IrisClient
PROGRAM = r"printf 'euro \\342\\202\\254 \\033[2Jx\\n'; [ $IRIS_TASK_INDEX = 1 ] || exit 3; sleep 600"
with IrisClient.remote() as client:
    job = client.run(["sh", "-c", PROGRAM], replicas=2)
    status = client.wait(job.job_id, stream_logs=True)
    sys.stderr.write("state %d\\n" % status.state)
"""


@pytest.mark.parametrize(
    ("encoding", "euro"), [("ascii", b"\\u20ac"), ("latin-1", b"\\u20ac"), ("utf-8", b"\xe2\x82\xac")]
)
def test_wait_prints_lines_in_any_encoding(shared_cluster: LocalServer, encoding: str, euro: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITS],
        env=environment(PYTHONIOENCODING=encoding, IRIS_CONTROLLER_ADDRESS=shared_cluster.address),
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b"[task-0:stdout] euro " + euro + b" x\n"
    assert b"state 5\n" in done.stderr
    assert done.stderr.count(b"showing task 0 of 2; task 1 is not shown") == 1


def test_wait_with_a_closed_pipe_continues_to_the_end_of_the_job(shared_cluster: LocalServer, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-c", WAITS + "    sys.stdout = None\n"],
            env=environment(IRIS_CONTROLLER_ADDRESS=shared_cluster.address),
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert b"state 5\n" in done.stderr, done
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("streams", ["sys.stdout = sys.stderr = None", "sys.stdout.close(); sys.stderr.close()"])
def test_wait_without_stdout_and_stderr_continues_to_the_end_of_the_job(
    shared_cluster: LocalServer, tmp_path: Path, streams: str
) -> None:
    program_ = WAITS.replace("import sys", f"import sys; {streams}").replace(
        'sys.stderr.write("state %d\\n" % status.state)', "open(sys.argv[1], 'w').write(str(status.state))"
    )
    subprocess.run(
        [sys.executable, "-c", program_, str(tmp_path / "state")],
        env=environment(IRIS_CONTROLLER_ADDRESS=shared_cluster.address),
        timeout=60,
        check=False,
    )
    assert (tmp_path / "state").read_text() == "5"

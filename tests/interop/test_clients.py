"""The programs of examples/clients against a real cluster, each with the protocols and HTTP versions that it offers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.client_programs import EXAMPLES, PROGRAMS, TYPESCRIPT, ClientProgram, bundle, need, need_node_modules

from iris.cluster.client.server_process import LocalServer

REPOSITORY = Path(__file__).parents[2]
# The schema is read from files, or by reflection if BUF_FLAGS has no --schema.
SCHEMA = f"--schema {REPOSITORY / 'proto'}"

Start = Callable[..., ClientProgram]


@pytest.fixture(scope="module")
def node_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program for Node."""
    need_node_modules()
    return bundle("job.ts", tmp_path_factory.mktemp("node"), "node")


@pytest.fixture(scope="module")
def java_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program for Java."""
    need("javac")
    directory = tmp_path_factory.mktemp("java")
    subprocess.run(["javac", "-d", directory, EXAMPLES / "java" / "Job.java"], check=True)
    return directory


def node(protocol: str, version: str) -> object:
    def start(request: pytest.FixtureRequest, address: str, command: list[str], **env: str) -> ClientProgram:
        program = request.getfixturevalue("node_program")
        return ClientProgram(["node", program, protocol, version], address, command, env)

    return pytest.param(start, id=f"node-{protocol}-{version}")


def buf(protocol: str, flags: str, name: str) -> object:
    def start(request: pytest.FixtureRequest, address: str, command: list[str], **env: str) -> ClientProgram:
        need("buf", "jq")
        return ClientProgram([EXAMPLES / "buf" / "job.sh", protocol], address, command, {"BUF_FLAGS": flags, **env})

    return pytest.param(start, id=f"buf-{protocol}-{name}")


def shell_with_curl() -> object:
    def start(request: pytest.FixtureRequest, address: str, command: list[str], **env: str) -> ClientProgram:
        need("curl", "jq")
        return ClientProgram([EXAMPLES / "curl" / "job.sh"], address, command, env)

    return pytest.param(start, id="curl")


def java() -> object:
    def start(request: pytest.FixtureRequest, address: str, command: list[str], **env: str) -> ClientProgram:
        need("java")
        classes = request.getfixturevalue("java_classes")
        return ClientProgram(["java", "-XX:TieredStopAtLevel=1", "-cp", classes, "Job"], address, command, env)

    return pytest.param(start, id="java")


CLIENTS = [
    shell_with_curl(),
    node("connect", "1.1"),
    node("grpc-web", "1.1"),
    buf("connect", SCHEMA, "1.1"),
    buf("grpcweb", SCHEMA, "1.1"),
]


@pytest.mark.parametrize("start", CLIENTS)
def test_client_follows_a_log_while_it_is_written_and_reads_the_failure(
    start: Start, request: pytest.FixtureRequest, shared_cluster: LocalServer, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = ["sh", "-c", f'echo "first line"; cat {pipe}; exit 3']
    with closing(start(request, shared_cluster.address, command)) as program:
        assert program.read_line() == "first line", program.wait()
        pipe.write_text("größe\n")  # The task is still running, because it waits for this line.
        code, rest, messages = program.wait()
    # The log route writes messages about the logs between the lines.
    assert (code, [line for line in rest if not line.startswith("iris: ")]) == (1, ["größe"])
    submitted, ended = messages
    job_id = submitted.removeprefix("submitted ")
    assert ended.removeprefix(f"{job_id} ended ").removeprefix("JOB_STATE_") == "FAILED: exit code 3"


@pytest.mark.parametrize("start", CLIENTS)
def test_client_without_a_valid_token_prints_the_error_of_the_server(
    start: Start, request: pytest.FixtureRequest, shared_cluster: LocalServer
) -> None:
    with closing(start(request, shared_cluster.address, ["true"], IRIS_TOKEN="x")) as program:
        code, _, messages = program.wait()
    text = "\n".join(messages)
    assert code not in (0, 1)
    assert "the token is damaged, or is not a token of Iris" in text


def test_generated_typescript_is_up_to_date(tmp_path: Path) -> None:
    need_node_modules()
    command = [PROGRAMS / "buf", "generate", REPOSITORY / "proto", "--output", tmp_path]
    subprocess.run(command, cwd=TYPESCRIPT, env={**os.environ, "BUF_CACHE_DIR": str(tmp_path / "cache")}, check=True)
    name = Path("gen/iris/rpc/cluster_pb.ts")
    assert (tmp_path / name).read_text() == (TYPESCRIPT / name).read_text(), "run 'poe generate-typescript'"


def test_types_of_the_typescript_programs_are_right() -> None:
    need_node_modules()
    command = ["node", "node_modules/typescript/bin/tsc", "-p", "."]
    done = subprocess.run(command, cwd=TYPESCRIPT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")

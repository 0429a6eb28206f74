"""The programs of examples/clients against a real cluster, each with the protocols and HTTP versions that it offers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.client_programs import EXAMPLES, ClientProgram, TypeScript, need

from iris.cluster.client.server_process import LocalServer

REPOSITORY = Path(__file__).parents[2]
SCHEMA = str(REPOSITORY / "proto")
REFLECTION = ""  # The server describes its schema.

Start = Callable[..., ClientProgram]


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> TypeScript:
    """The programs in TypeScript with their generated code."""
    return TypeScript(tmp_path_factory.mktemp("programs") / "typescript")


@pytest.fixture(scope="module")
def node_program(typescript: TypeScript) -> Path:
    """The compiled program for Node."""
    return typescript.bundle("job.ts", "node")


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


def buf(protocol: str, version: str, schema: str) -> object:
    def start(request: pytest.FixtureRequest, address: str, command: list[str], **env: str) -> ClientProgram:
        need("buf", "jq")
        program = [EXAMPLES / "buf" / "job.sh", protocol, version]
        return ClientProgram(program, address, command, {"SCHEMA": schema, **env})

    return pytest.param(start, id=f"buf-{protocol}-{version}")


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


def grpcio() -> object:
    def start(request: pytest.FixtureRequest, address: str, command: list[str], **env: str) -> ClientProgram:
        pytest.importorskip("grpc")
        return ClientProgram([sys.executable, EXAMPLES / "grpcio" / "job.py"], address, command, env)

    return pytest.param(start, id="grpcio")


WITH_SCHEMA = [
    shell_with_curl(),
    java(),
    grpcio(),
    node("connect", "1.1"),
    node("grpc-web", "1.1"),
    node("connect", "2"),
    node("grpc", "2"),
    node("grpc-web", "2"),
    buf("connect", "1.1", SCHEMA),
    buf("grpcweb", "1.1", SCHEMA),
]
CLIENTS = [
    *WITH_SCHEMA,
    buf("connect", "2", REFLECTION),
    buf("grpc", "2", REFLECTION),
    buf("grpcweb", "2", REFLECTION),
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


# Without a valid token buf gets no schema by reflection, and prints an error of its own.
@pytest.mark.parametrize("start", WITH_SCHEMA)
def test_client_without_a_valid_token_prints_the_error_of_the_server(
    start: Start, request: pytest.FixtureRequest, shared_cluster: LocalServer
) -> None:
    with closing(start(request, shared_cluster.address, ["true"], IRIS_TOKEN="x")) as program:
        code, _, messages = program.wait()
    text = "\n".join(messages)
    assert code != 0
    assert "the token is damaged, or is not a token of Iris" in text


def test_types_of_the_typescript_programs_fit_the_generated_code(typescript: TypeScript) -> None:
    command = ["node", "node_modules/typescript/bin/tsc", "-p", "."]
    done = subprocess.run(command, cwd=typescript.directory, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")

"""Reads the command line of `python -m iris.server`, and serves a cluster until a signal ends the server."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from iris.cluster.client.server_process import EVENT_LOG, LOADING
from iris.cluster.worker.limits.cgroup import move_into_child_cgroup
from iris.config import LOCAL_ENGINE, ClusterConfig, read_config_file
from iris.errors import InvalidArgumentError, IrisError
from iris.event_log import set_up_event_log
from iris.event_log.task_stacks import write_stacks_on
from iris.server.cluster_server import ClusterServer
from iris.system.event_loop import run_loop
from iris.system.inherited import use_defaults
from iris.system.private_dir import keep_files_private
from iris.system.processes import call_when_parent_ends

if TYPE_CHECKING:
    from iris.cluster.worker.supervision.prepared_worker import PreparedWorker

WEBHOOK_SECRET_VARIABLE = "IRIS_WEBHOOK_SECRET"


def run() -> None:
    """Serve until SIGTERM. If the id of a parent process was given, also stop when the parent process ends."""
    use_defaults()
    arguments = _parse_arguments()
    if not sys.platform.startswith("linux"):
        sys.exit("iris: clusters run on Linux only: reach a cluster elsewhere with IrisClient.remote(address)")
    try:
        config = _read_config(arguments.config)
    except IrisError as error:
        _refuse(arguments, error)
    # The secret of webhooks is removed from the environment, because workers and tasks must not inherit it.
    webhook_secret = os.environ.pop(WEBHOOK_SECRET_VARIABLE, "")
    if config.enforce == "auto":
        move_into_child_cgroup()
    prepared = _prepare_workers(config)
    faulthandler.register(signal.SIGUSR1)  # SIGUSR1 writes the stacks of all threads to the event log, which is stderr.
    keep_files_private()
    run_loop(_serve(config, arguments, prepared, webhook_secret))


def _prepare_workers(config: ClusterConfig) -> list[PreparedWorker]:
    """Fork the first workers of the engine `local`. Other engines start workers on other machines. The processes are
    forked before this process has threads, a loop, handlers of signals, or a umask of its own.
    """
    if config.engine != LOCAL_ENGINE:
        return []
    from iris.cluster.worker.supervision.prepared_worker import prepare_workers

    return prepare_workers(config.num_workers)


async def _serve(
    config: ClusterConfig, arguments: argparse.Namespace, prepared: list[PreparedWorker], webhook_secret: str
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    write_stacks_on(signal.SIGUSR2)
    if arguments.parent_pid:
        call_when_parent_ends(arguments.parent_pid, stop.set)
    try:
        _set_up_event_log(config)
        server = ClusterServer(
            config,
            temporary=arguments.temporary,
            take_over=arguments.take_over,
            has_parent=bool(arguments.parent_pid),
            prepared=prepared,
            on_progress=lambda text: _report(arguments.ready_fd, text),
            webhook_secret=webhook_secret,
        )
        with server:
            _announce(arguments.ready_fd, await server.start())
            await stop.wait()
            await server.stop()
    except IrisError as error:
        _refuse(arguments, error)


def _refuse(arguments: argparse.Namespace, error: IrisError) -> NoReturn:
    _announce(arguments.ready_fd, {"error": str(error)})
    sys.exit(f"iris: {error}")


def _read_config(text: str) -> ClusterConfig:
    config = ClusterConfig.from_json(text) if text.startswith("{") else ClusterConfig(**read_config_file(Path(text)))
    if config.state_dir is None:
        raise InvalidArgumentError("the configuration must have a state_dir")
    return config


def _set_up_event_log(config: ClusterConfig) -> None:
    assert config.state_dir is not None, "the configuration was checked"
    set_up_event_log(
        config.state_dir / EVENT_LOG,
        level=config.log_level,
        log_format=config.log_format,
        max_bytes=config.event_log_bytes,
        max_files=config.event_log_files,
    )


def _report(ready_fd: int | None, text: str) -> None:
    """Report to the parent process how far the server has loaded its state."""
    if ready_fd is not None:
        with contextlib.suppress(BrokenPipeError):  # The parent process has ended.
            os.write(ready_fd, json.dumps({LOADING: text}).encode() + b"\n")


def _announce(ready_fd: int | None, message: dict[str, object]) -> None:
    if ready_fd is not None:
        os.write(ready_fd, json.dumps(message).encode() + b"\n")
        os.close(ready_fd)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m iris.server", description=__doc__)
    parser.add_argument(
        "--config",
        required=True,
        help="The configuration of the cluster with its state_dir: a JSON object, or the path of a TOML file.",
    )
    parser.add_argument(
        "--temporary", action="store_true", help="Keep jobs in memory only, and remove the state directory at the end."
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="Continue the jobs of a state directory that was moved or restored. The original must not run again.",
    )
    parser.add_argument("--parent-pid", type=int, help="End the server when the process with this id ends.")
    parser.add_argument(
        "--ready-fd",
        type=int,
        help="Write a line of JSON to this file descriptor when the server is ready or has failed: its address, or the"
        " error. Lines with its progress may come before.",
    )
    return parser.parse_args()

"""The command line of a worker: `python -m iris.cluster.worker`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from iris.cluster.worker.cleanup import DEFAULT_KEEP_UPLOADED_S
from iris.config import ClusterConfig
from iris.errors import InvalidArgumentError

_DESCRIPTION = "Runs the attempts of tasks on this machine. An engine starts workers; no user has to."


def parse_arguments() -> argparse.Namespace:
    """Parse the command line of this process."""
    parser = argparse.ArgumentParser(prog="python -m iris.cluster.worker", description=_DESCRIPTION)
    _add_identity_arguments(parser)
    _add_storage_arguments(parser)
    _add_network_arguments(parser)
    parser.add_argument(
        "--config",
        metavar="JSON",
        default="{}",
        help="a JSON object with options of the cluster's configuration; missing options have their defaults",
    )
    parser.add_argument(
        "--task-file-limit", type=int, help="how many files a task may open; default: the limit of the worker's process"
    )
    parser.add_argument(
        "--identity-file",
        type=Path,
        help="write facts that identify this process, such as the process id, into this file; the file is removed when"
        " the worker ends",
    )
    parser.add_argument(
        "--allocation-left",
        metavar="SECONDS",
        default=math.inf,
        type=float,
        help="how many seconds are left until the engine ends the allocation of this worker (default: %(default)s)",
    )
    parser.add_argument("--parent-pid", type=int, help="end the worker when the parent process with this id has ended")
    return parser.parse_args()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Parse the configuration, which is text in `arguments.config`, and check the length of the lease.

    Raises:
        InvalidArgumentError: The configuration is invalid, or the length of the lease is negative or not a number.
    """
    arguments.config = ClusterConfig.from_json(arguments.config)
    if not arguments.lease >= 0:
        raise InvalidArgumentError(f"--lease must be 0 or greater, got {arguments.lease}")


def _add_identity_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worker-id", required=True, help="the id with which the worker registers at the controller")
    parser.add_argument(
        "--incarnation",
        default="",
        help="a string that identifies this process of the worker; default: a random string",
    )
    parser.add_argument("--controller", required=True, help="the controller's address")
    parser.add_argument(
        "--controller-file", type=Path, help="the file in which a restarted controller writes its new address"
    )
    parser.add_argument(
        "--lease",
        metavar="SECONDS",
        default=0.0,
        type=float,
        help="how many seconds attempts continue to run while the controller does not answer; the controller replaces"
        " this value by its own; 0 means without limit (default: %(default)s)",
    )
    parser.add_argument(
        "--credentials",
        metavar="FILE",
        default="",
        help='a JSON file (may be /dev/fd/N) with "token", the token of this worker, and "token_key", the public'
        " key of the cluster in hexadecimal digits; default: the token in IRIS_TOKEN, and the key that the controller"
        " sends",
    )


def _add_storage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", required=True, type=Path, help="the directory of the attempts and their logs")
    parser.add_argument(
        "--log-directory",
        type=Path,
        help="write logs into this directory, where the controller on this machine reads them; default: upload them",
    )
    parser.add_argument(
        "--keep-handed-over",
        metavar="SECONDS",
        default=DEFAULT_KEEP_UPLOADED_S,
        type=float,
        help="how many seconds to keep a log that was uploaded to the controller (default: %(default)s)",
    )


def _add_network_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address on which the worker listens; 'auto' means the address from which this machine calls the"
        " controller (default: %(default)s)",
    )
    parser.add_argument(
        "--advertise",
        metavar="ADDRESS",
        default="",
        help="the address at which others reach this worker: HOST, or HOST:PORT for a forwarded port, or a URL."
        " Default: the value of --host, or the address from which this machine calls the controller if the worker"
        " binds to all addresses",
    )
    parser.add_argument(
        "--port", default=0, type=int, help="the port on which the worker listens; default: any free port"
    )
    parser.add_argument(
        "--part",
        metavar="FILE",
        default="",
        help="a PEM file with the certificate and the private key with which this worker proves its identity to the"
        " controller and to other workers",
    )
    parser.add_argument(
        "--ca",
        metavar="FILE",
        default="",
        help="a PEM file with the certificate authority of a controller that uses TLS; default: tls_cert of --config,"
        " or else the value of IRIS_CA",
    )

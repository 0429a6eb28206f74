"""Makes the parts of a LaunchJobRequest from the arguments of `IrisClient.run`, and refuses invalid arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iris.arguments import (
    MAX_INT32,
    check_choice,
    check_items,
    check_keyword_arguments,
    check_names,
    check_text_mapping,
    check_timeout,
)
from iris.cluster.names import check_label, check_port_name
from iris.cluster.types import TOKEN_VARIABLE, Entrypoint, ResourceSpec
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2

_PLACEMENTS = {"spread": cluster_pb2.PLACEMENT_SPREAD, "together": cluster_pb2.PLACEMENT_TOGETHER}
_RENDEZVOUS = {"torch": cluster_pb2.RENDEZVOUS_TORCH, "jax": cluster_pb2.RENDEZVOUS_JAX}


def entrypoint_of(
    entrypoint: Callable[..., Any] | Sequence[str] | Entrypoint, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> Entrypoint:
    """Return what a job runs.

    Raises:
        InvalidArgumentError: It is neither a callable nor a command, or its arguments are not those of a callable.
    """
    items = check_items("args", args, "a list or tuple of the callable's arguments")
    named = check_keyword_arguments("kwargs", {} if kwargs is None else kwargs)
    if callable(entrypoint):
        return Entrypoint(callable=entrypoint, args=items, kwargs=named)
    if isinstance(entrypoint, Entrypoint):
        if entrypoint.callable and (items or named):
            raise InvalidArgumentError("args and kwargs go with a plain callable: this Entrypoint has its own already")
        entry = entrypoint
    else:
        entry = Entrypoint.from_command(entrypoint)
    if items or named:
        raise InvalidArgumentError("args and kwargs go with a callable; the words of a command are its arguments")
    return entry


def resources_message(spec: ResourceSpec, replicas: int) -> cluster_pb2.ResourceSpecProto:
    """Return what each task needs, and how many tasks there are."""
    message = cluster_pb2.ResourceSpecProto(cpu=spec.cpu, memory_bytes=spec.memory_bytes, replicas=replicas)
    if spec.gpu:
        message.device.gpu.count = spec.gpu
    return message


def variables_of(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment variables for the tasks, without the token of the caller: a task has its own.

    Raises:
        InvalidArgumentError: `env` is not a mapping of text to text.
    """
    variables = {} if env is None else check_text_mapping("env", env, none="no variables")
    variables.pop(TOKEN_VARIABLE, None)
    return variables


def ports_of(ports: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a task's ports.

    Raises:
        InvalidArgumentError: `ports` is not a list of names from which names of environment variables can be made.
    """
    names = check_names("ports", ports, "['http']")
    for name in names:
        check_port_name(name)
    return names


def placement_of(placement: str | None) -> cluster_pb2.Placement:
    """Return how a gang is spread over machines.

    Raises:
        InvalidArgumentError: `placement` is none of the known words.
    """
    if placement is None:
        return cluster_pb2.PLACEMENT_UNSPECIFIED
    return _PLACEMENTS[check_choice("placement", placement, tuple(_PLACEMENTS), none="any machines")]


def rendezvous_of(framework: str | None) -> cluster_pb2.Rendezvous:
    """Return how the tasks of a gang find each other.

    Raises:
        InvalidArgumentError: `framework` is none of the known words.
    """
    if framework is None:
        return cluster_pb2.RENDEZVOUS_UNSPECIFIED
    return _RENDEZVOUS[check_choice("rendezvous", framework, tuple(_RENDEZVOUS), none="no rendezvous")]


def constraints_of(labels: Mapping[str, str] | None) -> list[cluster_pb2.Constraint]:
    """Return the labels that a machine must have.

    Raises:
        InvalidArgumentError: `labels` is not a mapping of text to text, or no machine can have one of them.
    """
    wanted = {} if labels is None else check_text_mapping("constraints", labels, none="any machine")
    for key, value in wanted.items():
        check_label(key, value)
    return [
        cluster_pb2.Constraint(
            key=key, op=cluster_pb2.CONSTRAINT_OP_EQ, value=cluster_pb2.AttributeValue(string_value=value)
        )
        for key, value in wanted.items()
    ]


def timeout_seconds(name: str, timeout: float | None) -> int:
    """Return a timeout as the wire has it: whole seconds, rounded up, and 0 for no limit.

    Raises:
        InvalidArgumentError: `timeout` is not a number of seconds that the wire can carry.
    """
    seconds = check_timeout(name, timeout, most=MAX_INT32)
    return 0 if seconds == math.inf else math.ceil(seconds)

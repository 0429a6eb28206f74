"""Chooses the cluster that a client or a command calls.

The client calls the first of these clusters that exists:
1. the cluster with the address or the context in the call or on the command line;
2. the cluster at the address in `IRIS_CONTROLLER_ADDRESS`, which is set inside each job;
3. the cluster of the context in `IRIS_CONTEXT`;
4. the cluster of the current context, which `iris login` and `iris context use` set;
5. the cluster that `iris up` has started on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from iris.arguments import check_text
from iris.cluster.client.contexts.context_file import LOCAL, Context, read_contexts
from iris.cluster.client.running_cluster import find_record, home_stamp, is_running
from iris.errors import (
    FailedPreconditionError,
    InvalidAddressError,
    InvalidArgumentError,
    UnauthenticatedError,
    quoted,
)
from iris.rpc.address import ACCEPTED_FORMS

ADDRESS_VARIABLE = "IRIS_CONTROLLER_ADDRESS"
CONTEXT_VARIABLE = "IRIS_CONTEXT"

# How a cluster was chosen: by a given address or context, an environment variable, the current context, or `iris up`.
Source = Literal["address", "context", "address-variable", "context-variable", "current-context", "running"]


@dataclass(frozen=True, slots=True)
class Access:
    """The credentials of a client, in the form of the arguments of `IrisClient.remote`.

    Attributes:
        token: The token, or a function that returns a token.
        ca: The path of a file with certificates that the client trusts.
        cert: The path of the client's certificate, or the paths of the certificate and its key.
    """

    token: str | Callable[[], str] | None = None
    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ChosenCluster:
    """The cluster that a client calls.

    Attributes:
        address: The address of the controller, as it was given.
        source: How the cluster was chosen, as a `Source`.
        context: The stored context that names the cluster. None if no context was used.
    """

    address: str
    source: Source
    context: Context | None = None

    def access(self, given: Access, *, has_transport: bool = False) -> Access:
        """Return the token and certificates for a client. Values that the user has given override the context.

        Args:
            given: The token and certificates that the user has given. If no context has named the cluster, this method
                returns them unchanged.
            has_transport: Whether the user gives a transport, which then has its own certificates.
        """
        if self.context is None:
            return given
        token = ContextToken(self.context) if given.token is None else given.token
        if has_transport:
            return replace(given, token=token)
        ca = self.context.ca or None if given.ca is None else given.ca
        return Access(token, ca, self.context.certificate() if given.cert is None else given.cert)


def find_cluster(address: str | None = None, context: str | None = None) -> ChosenCluster | None:
    """Return the cluster to call, or None if nothing names a cluster.

    Args:
        address: The given address. None: none was given.
        context: The name of the given context. `local` is the cluster of `iris up`. None: none was given.

    Raises:
        InvalidArgumentError: An address and a context are given.
        NotFoundError: There is no such context.
        FailedPreconditionError: The file of contexts or the record of `iris up` cannot be trusted, or the server of
            `iris up` was killed.
    """
    if address is not None and context is not None:
        raise InvalidArgumentError(
            f"an address and a context exclude each other, got address={quoted(address)} and context={quoted(context)}"
        )
    if address is not None:
        return ChosenCluster(address, "address")
    if context is not None:
        return _of_context(context, "context")
    if in_variable := os.environ.get(ADDRESS_VARIABLE):
        return ChosenCluster(in_variable, "address-variable")
    if name := os.environ.get(CONTEXT_VARIABLE):
        return _of_context(name, "context-variable")
    if name := read_contexts().current:
        return _of_context(name, "current-context")
    return _running()


def choose_cluster(address: str | None = None) -> ChosenCluster:
    """Return the cluster to call. `find_cluster` documents further errors.

    Args:
        address: The given address. None: none was given.

    Raises:
        InvalidAddressError: Nothing names a cluster.
    """
    chosen = find_cluster(address)
    if chosen is None and os.environ.get(CONTEXT_VARIABLE) == LOCAL:
        raise InvalidAddressError(
            f"{CONTEXT_VARIABLE} is {LOCAL!r}, and no cluster of 'iris up' runs on this machine: run 'iris up', unset"
            f" {CONTEXT_VARIABLE}, or give an address ({ACCEPTED_FORMS})"
        )
    if chosen is None:
        raise InvalidAddressError(
            f"no address was given, {ADDRESS_VARIABLE} is not set, there is no current context, and no cluster of"
            f" 'iris up' runs on this machine: give an address ({ACCEPTED_FORMS}), or run 'iris login' or 'iris up'"
        )
    return chosen


def choose_context(name: object) -> ChosenCluster:
    """Return the cluster of a context.

    Raises:
        InvalidArgumentError: The name is not text.
        NotFoundError: There is no such context.
        FailedPreconditionError: The name is `local`, and no cluster of `iris up` runs on this machine. The file of
            contexts or the record of `iris up` cannot be trusted.
    """
    name = check_text("name", name, empty=False, accepted="the name of a context")
    chosen = find_cluster(context=name)
    if chosen is None:
        raise FailedPreconditionError("no cluster of 'iris up' runs on this machine: start one with 'iris up'")
    return chosen


class ContextToken:
    """The token of a context, as a function that a client calls for its token. Each call reads the file of contexts, so
    that a running client continues after the user has logged in again.

    Args:
        context: The stored address and token of a cluster.

    Attributes:
        what: The name of the token in error messages.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.what = f"the context {context.name!r}"

    def __call__(self) -> str:
        """Return the token.

        Raises:
            UnauthenticatedError: The context was removed, or has another address now.
            FailedPreconditionError: The file of contexts cannot be used. `read_contexts` documents the reasons.
        """
        found = read_contexts().known.get(self._context.name)
        if found is None or found.address != self._context.address:
            raise UnauthenticatedError(
                f"{self.what} for {self._context.address} was removed or changed: run 'iris login"
                f" {self._context.address} --name {self._context.name}'"
            )
        return found.token


def _of_context(name: str, source: Source) -> ChosenCluster | None:
    if name == LOCAL:
        return _running()
    context = read_contexts().find(name)
    return ChosenCluster(context.address, source, context)


def _running() -> ChosenCluster | None:
    found = find_record()
    if found is None:
        return None
    path, record = found
    address = record.get("address")
    # A record in a copy of the home directory is ignored, because it describes the cluster of the original directory.
    if not isinstance(address, str) or record.get("home", "") not in ("", home_stamp(path)):
        return None
    if not is_running(record):
        raise FailedPreconditionError(
            f"the server of 'iris up' at {address} was killed, and its attempts may still run: 'iris up' starts"
            " the server again, with all its jobs; 'iris down' ends the attempts"
        )
    return ChosenCluster(address, "running")

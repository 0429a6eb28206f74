"""The registry of endpoints: names by which what runs in one job is found from elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from iris.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2

Endpoint = cluster_pb2.Controller.Endpoint

_REMEMBERED = 1000  # endpoints that were unregistered and belonged to no job


class Endpoints:
    """All endpoints. A name belongs to one job at a time.

    One that was unregistered leaves a record without a name, so that a repeat of that call is answered as the first
    was. It goes with its job; of those that belong to no job, the newest stay.

    Args:
        known: Those that there are.
        changed: Called for each that comes or goes (None), with its id.
    """

    def __init__(self, known: Iterable[Endpoint], changed: Callable[[str, Endpoint | None], None]) -> None:
        self._changed = changed
        known = list(known)
        self._by_name: dict[str, Endpoint] = {endpoint.name: endpoint for endpoint in known if endpoint.name}
        self._unregistered = {endpoint.endpoint_id: endpoint for endpoint in known if not endpoint.name}

    def register(self, request: cluster_pb2.Controller.RegisterEndpointRequest) -> Endpoint:
        """Adds a name, or moves it to another address for the job that has it, as a retried task does.

        Raises:
            InvalidArgumentError: Name or address is empty.
            AlreadyExistsError: Another job has the name.
        """
        if not request.name:
            raise InvalidArgumentError("an endpoint's name must not be empty")
        if not request.address:
            raise InvalidArgumentError(f"endpoint {request.name!r} needs an address, as 'host:port'")
        known = self._by_name.get(request.name)
        if known is not None and known.job_id != request.job_id:
            owner = f"job {known.job_id!r}" if known.job_id else "nobody's job; unregister it first"
            raise AlreadyExistsError(f"endpoint {request.name!r} belongs to {owner}")
        if known is not None and known.address == request.address and known.metadata == request.metadata:
            return known  # the same again, after a lost reply
        endpoint = Endpoint(
            endpoint_id=secrets.token_hex(8),
            name=request.name,
            address=request.address,
            job_id=request.job_id,
            metadata=request.metadata,
        )
        if known is not None:
            self._changed(known.endpoint_id, None)
        self._changed(endpoint.endpoint_id, endpoint)
        self._by_name[endpoint.name] = endpoint
        return endpoint

    def unregister(self, endpoint_id: str) -> None:
        """Takes a name away; again: no effect.

        Raises:
            NotFoundError: There is no such endpoint, and was none.
        """
        if endpoint_id in self._unregistered:
            return
        endpoint = next((known for known in self._by_name.values() if known.endpoint_id == endpoint_id), None)
        if endpoint is None:
            raise NotFoundError(f"no endpoint with id {endpoint_id!r}")
        self._unregistered[endpoint_id] = gone = Endpoint(endpoint_id=endpoint_id, job_id=endpoint.job_id)
        self._changed(endpoint_id, gone)
        for one in [known.endpoint_id for known in self._unregistered.values() if not known.job_id][:-_REMEMBERED]:
            self._changed(one, None)
            del self._unregistered[one]
        del self._by_name[endpoint.name]

    def lookup(self, name: str) -> Endpoint:
        """The endpoint of that name.

        Raises:
            NotFoundError: There is none.
        """
        endpoint = self._by_name.get(name)
        if endpoint is None:
            raise NotFoundError(f"no endpoint named {name!r}")
        return endpoint

    def list(self, prefix: str) -> list[Endpoint]:
        """The endpoints whose names start with a prefix, by name."""
        return [self._by_name[name] for name in sorted(self._by_name) if name.startswith(prefix)]

    def job_ids(self) -> set[str]:
        """The jobs that have endpoints, or had."""
        return {endpoint.job_id for endpoint in (*self._by_name.values(), *self._unregistered.values())}

    def job_ended(self, job_id: str) -> None:
        """The names of a job go with it."""
        for endpoint in [endpoint for endpoint in self._by_name.values() if endpoint.job_id == job_id]:
            self._changed(endpoint.endpoint_id, None)
            del self._by_name[endpoint.name]
        for endpoint in [endpoint for endpoint in self._unregistered.values() if endpoint.job_id == job_id]:
            self._changed(endpoint.endpoint_id, None)
            del self._unregistered[endpoint.endpoint_id]

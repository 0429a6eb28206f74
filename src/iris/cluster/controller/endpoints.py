"""The registry of endpoints: names by which what runs in one job is found from elsewhere."""

from __future__ import annotations

import secrets

from iris.cluster.controller.store import Store
from iris.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2

Endpoint = cluster_pb2.Controller.Endpoint


class Endpoints:
    """All endpoints, in memory and in the store. A name belongs to one job at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_name: dict[str, Endpoint] = {endpoint.name: endpoint for endpoint in store.load_endpoints()}

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
        self._store.save_endpoints([endpoint], [known.endpoint_id] if known is not None else [])
        self._by_name[endpoint.name] = endpoint
        return endpoint

    def unregister(self, endpoint_id: str) -> None:
        """Takes a name away.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        endpoint = next((known for known in self._by_name.values() if known.endpoint_id == endpoint_id), None)
        if endpoint is None:
            raise NotFoundError(f"no endpoint with id {endpoint_id!r}")
        self._store.save_endpoints(removed=[endpoint_id])
        del self._by_name[endpoint.name]

    def job_of(self, endpoint_id: str) -> str | None:
        """The job that an endpoint belongs to, empty for nobody's; None when there is no such endpoint."""
        return next((known.job_id for known in self._by_name.values() if known.endpoint_id == endpoint_id), None)

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

    def job_ended(self, job_id: str) -> None:
        """The names of a job go with it."""
        gone = [endpoint for endpoint in self._by_name.values() if endpoint.job_id == job_id]
        if gone:
            self._store.save_endpoints(removed=[endpoint.endpoint_id for endpoint in gone])
            for endpoint in gone:
                del self._by_name[endpoint.name]

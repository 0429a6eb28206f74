"""The registry of endpoints: names by which what runs in one job is found from elsewhere."""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable

from iris.cluster.names import check_name, find_unseen
from iris.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, ResourceExhaustedError, quoted
from iris.rpc import cluster_pb2
from iris.rpc.pages import Page, cut_named_page
from iris.rpc.serving.steps import Steps

Endpoint = cluster_pb2.Controller.Endpoint

_REMEMBERED = 1000  # of a job, or of none: endpoints that were unregistered
MAX_ENDPOINT_BYTES = 4096  # of its address and metadata
MAX_OF_JOB = 20_000  # the largest job has 10,000 tasks
MAX_ENDPOINTS = 100_000  # all are held in memory


class Endpoints:
    """All endpoints. A name belongs to one job at a time.

    One that was unregistered leaves a record without a name, so that a repeat of that call is answered as the first
    was. It goes with its job; until then, and of those that belong to no job, the newest stay.

    One that a task has registered ends with the attempt that did, however that ends: its port is free for others then.
    It is never given out after that, and removed when somebody asks for it, needs its name, or its job ends.

    Args:
        known: Those that there are.
        changed: Called for each that comes or goes (None), with its id.
        is_live: Whether an attempt goes on: by job, task index and attempt id.
    """

    def __init__(
        self,
        known: Iterable[Endpoint],
        changed: Callable[[str, Endpoint | None], None],
        is_live: Callable[[str, int, int], bool] = lambda job_id, task_index, attempt_id: True,
    ) -> None:
        self._changed = changed
        self._is_live = is_live
        self._by_name: dict[str, Endpoint] = {}
        self._by_id: dict[str, Endpoint] = {}  # the same
        self._unregistered: dict[str, dict[str, None]] = {}  # by job: ids, oldest first
        self._count: Counter[str] = Counter()
        for endpoint in known:
            if endpoint.name:
                self._hold(endpoint)
            else:
                self._unregistered.setdefault(endpoint.job_id, {})[endpoint.endpoint_id] = None
        self._names = sorted(self._by_name)  # so that a page is found without looking at all of them

    def register(
        self, request: cluster_pb2.Controller.RegisterEndpointRequest, attempt: tuple[int, int] | None = None
    ) -> Endpoint:
        """Adds a name, or moves it to another address for the job that has it, as a retried task does.

        Args:
            request: What the name stands for, and which job it belongs to.
            attempt: The task index and attempt id of who registers it, with which it ends; None: it ends with its job.

        Raises:
            InvalidArgumentError: Name or address is empty, or cannot be shown.
            ResourceExhaustedError: It is too large, or one too many.
            AlreadyExistsError: Another job has the name.
        """
        check_name("endpoint", request.name)
        fault = find_unseen(request.address) if request.address else "is empty"
        if fault:
            raise InvalidArgumentError(
                f"endpoint {request.name!r} needs an address, as 'host:port': {quoted(request.address)} {fault}"
            )
        known = self._find(request.name)
        if known is not None and known.job_id != request.job_id:
            owner = f"job {known.job_id!r}" if known.job_id else "nobody's job; unregister it first"
            raise AlreadyExistsError(f"endpoint {request.name!r} belongs to {owner}")
        is_same = known is not None and _attempt_of(known) == attempt
        if known is not None and is_same and (known.address, known.metadata) == (request.address, request.metadata):
            return known  # the same again, after a lost reply
        self._check_size(request)
        if known is None:
            self._check_count(request.job_id)
        endpoint = Endpoint(
            endpoint_id=secrets.token_hex(8),
            name=request.name,
            address=request.address,
            job_id=request.job_id,
            metadata=request.metadata,
        )
        if attempt is not None:
            endpoint.task_index, endpoint.attempt_id = attempt
        if known is not None:
            self._changed(known.endpoint_id, None)
            self._drop(known)
        self._changed(endpoint.endpoint_id, endpoint)
        self._take(endpoint)
        return endpoint

    def unregister(self, endpoint_id: str) -> None:
        """Takes a name away; again: no effect.

        Raises:
            NotFoundError: There is no such endpoint, and was none.
        """
        endpoint = self._by_id.get(endpoint_id)
        if endpoint is None:
            if any(endpoint_id in gone for gone in self._unregistered.values()):
                return
            raise NotFoundError(f"no endpoint with id {quoted(endpoint_id)}")
        self._changed(endpoint_id, Endpoint(endpoint_id=endpoint_id, job_id=endpoint.job_id))
        gone = self._unregistered.setdefault(endpoint.job_id, {})
        gone[endpoint_id] = None
        if len(gone) > _REMEMBERED:
            oldest = next(iter(gone))
            self._changed(oldest, None)
            del gone[oldest]
        self._drop(endpoint)

    def job_of(self, endpoint_id: str) -> str | None:
        """The job that an endpoint belongs to, empty for nobody's; None when there is no such endpoint."""
        endpoint = self._by_id.get(endpoint_id)
        return None if endpoint is None else endpoint.job_id

    def lookup(self, name: str) -> Endpoint:
        """The endpoint of that name.

        Raises:
            NotFoundError: There is none.
        """
        endpoint = self._find(name)
        if endpoint is None:
            raise NotFoundError(f"no endpoint named {quoted(name)}")
        return endpoint

    def list(self, prefix: str, *, page_size: int = 0, page_token: str = "") -> Steps[Page[Endpoint]]:
        """Make a page of the endpoints whose names start with a prefix, by name.

        Raises:
            InvalidArgumentError: See `cut_named_page`.
        """
        first = bisect_left(self._names, prefix)
        # What follows a prefix in the order of names begins after its largest continuation.
        end = bisect_left(self._names, prefix + chr(0x10FFFF)) if prefix else len(self._names)
        names = self._names[first:end]
        return cut_named_page("endpoints", names, self._find, page_size=page_size, page_token=page_token)

    def job_ids(self) -> set[str]:
        """The jobs that have endpoints, or had."""
        return self._count.keys() | self._unregistered.keys()

    def job_ended(self, job_id: str) -> None:
        """The names of a job go with it."""
        if job_id in self._count:
            for endpoint in [endpoint for endpoint in self._by_id.values() if endpoint.job_id == job_id]:
                self._changed(endpoint.endpoint_id, None)
                self._drop(endpoint)
        for endpoint_id in self._unregistered.pop(job_id, {}):
            self._changed(endpoint_id, None)

    def _find(self, name: str) -> Endpoint | None:
        endpoint = self._by_name.get(name)
        if endpoint is None or not self._has_ended(endpoint):
            return endpoint
        self.unregister(endpoint.endpoint_id)
        return None

    def _has_ended(self, endpoint: Endpoint) -> bool:
        attempt = _attempt_of(endpoint)
        return attempt is not None and not self._is_live(endpoint.job_id, *attempt)

    def _take(self, endpoint: Endpoint) -> None:
        insort(self._names, endpoint.name)
        self._hold(endpoint)

    def _hold(self, endpoint: Endpoint) -> None:
        self._by_name[endpoint.name] = self._by_id[endpoint.endpoint_id] = endpoint
        self._count[endpoint.job_id] += 1

    def _drop(self, endpoint: Endpoint) -> None:
        del self._by_name[endpoint.name], self._by_id[endpoint.endpoint_id]
        del self._names[bisect_left(self._names, endpoint.name)]
        self._count[endpoint.job_id] -= 1
        if not self._count[endpoint.job_id]:
            del self._count[endpoint.job_id]

    def _check_size(self, request: cluster_pb2.Controller.RegisterEndpointRequest) -> None:
        size = len(request.address.encode()) + sum(
            len(key.encode()) + len(value.encode()) for key, value in request.metadata.items()
        )
        if size > MAX_ENDPOINT_BYTES:
            raise ResourceExhaustedError(
                f"endpoint {request.name!r} has {size:,} bytes of address and metadata, over the limit of"
                f" {MAX_ENDPOINT_BYTES:,}: serve what is large at the address"
            )

    def _check_count(self, job_id: str) -> None:
        if self._count[job_id] >= MAX_OF_JOB or len(self._by_name) >= MAX_ENDPOINTS:
            for name in list(self._by_name):
                self._find(name)  # which removes it where it has ended
        of_job = f"of job {quoted(job_id)}" if job_id else "that belong to no job"
        for has, limit, which in (
            (self._count[job_id], MAX_OF_JOB, of_job),
            (len(self._by_name), MAX_ENDPOINTS, "in this cluster"),
        ):
            if has >= limit:
                raise ResourceExhaustedError(
                    f"there are {has:,} endpoints {which}, which is the limit: unregister some that are not needed"
                )


def _attempt_of(endpoint: Endpoint) -> tuple[int, int] | None:
    return (endpoint.task_index, endpoint.attempt_id) if endpoint.HasField("attempt_id") else None

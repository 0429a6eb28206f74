"""The registry of endpoints, by which tasks and clients find the address of a task by its name."""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable

from iris.cluster.names import check_name, find_unseen
from iris.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, ResourceExhaustedError, quoted
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.pages import Page, cut_named_page
from iris.rpc.serving.steps import Steps

Endpoint = cluster_pb2.Controller.Endpoint

# The ids of this many removed endpoints are remembered for each job.
_MAX_REMOVED = 1000
# The largest size of an endpoint's address and metadata together.
MAX_ENDPOINT_BYTES = 4096
# The largest number of endpoints of a job: two for each task of the largest job.
MAX_ENDPOINTS_OF_JOB = 20_000
# The largest number of endpoints of a cluster. All endpoints are in memory.
MAX_ENDPOINTS = 100_000


class Endpoints:
    """All endpoints of a cluster. A name belongs to one job at a time.

    An endpoint registered by a task is valid only until the task's attempt ends, because afterwards another process may
    get the same port. A look-up never returns an endpoint of an ended attempt. The registry removes such an endpoint at
    the next look-up, when another job needs the name, or when the endpoint's job ends.

    The registry remembers the ids of removed endpoints, so that a repeated request to remove an endpoint succeeds. The
    registry forgets the ids when their job ends. At most `_MAX_REMOVED` ids of a job are remembered, and the oldest ids
    are forgotten first.

    Args:
        known: The endpoints that an earlier controller has stored.
        changed: A function that saves an endpoint. Its arguments are the id of the endpoint and the endpoint, or None
            to remove the stored endpoint.
        is_live: A function that returns whether an attempt is live. Its arguments are the job id, the task index and
            the attempt id.
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
        self._by_id: dict[str, Endpoint] = {}
        # The ids of the removed endpoints of each job, the oldest first.
        self._removed: dict[str, dict[str, None]] = {}
        self._count: Counter[str] = Counter()
        for endpoint in known:
            if endpoint.name:
                self._index(endpoint)
            else:
                self._removed.setdefault(endpoint.job_id, {})[endpoint.endpoint_id] = None
        # The names of all endpoints are sorted, so that bisection finds the first name of a page.
        self._names = sorted(self._by_name)

    def register(
        self, request: cluster_pb2.Controller.RegisterEndpointRequest, attempt: tuple[int, int] | None = None
    ) -> Endpoint:
        """Register an endpoint. If the job has an endpoint of this name, the new address replaces the old one.

        Args:
            request: The name, the address, and the job that the endpoint belongs to.
            attempt: The task index and attempt id of the attempt that registers the endpoint. The endpoint ends with
                this attempt. None means that the endpoint ends with its job.

        Raises:
            InvalidArgumentError: The name or the address is empty, or has characters that cannot be shown.
            ResourceExhaustedError: The endpoint is too large, or there are too many endpoints.
            AlreadyExistsError: Another job has the name.
        """
        check_name("endpoint", request.name)
        fault = find_unseen(request.address) if request.address else "is empty"
        if fault:
            raise InvalidArgumentError(
                f"endpoint {request.name!r} needs an address like 'host:port': {quoted(request.address)} {fault}"
            )
        known = self._find(request.name)
        if known is not None and known.job_id != request.job_id:
            owner = f"job {known.job_id!r}: choose another name" if known.job_id else "no job: unregister it first"
            raise AlreadyExistsError(
                f"endpoint {request.name!r} belongs to {owner}",
                reason=ErrorReason.ENDPOINT_EXISTS,
                metadata={"name": request.name, "job_id": known.job_id},
            )
        is_same = known is not None and _attempt_of(known) == attempt
        if known is not None and is_same and (known.address, known.metadata) == (request.address, request.metadata):
            # The endpoint exists already: the client has repeated its request, for example because the first answer was
            # lost.
            return known
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
            self._remove(known)
        self._changed(endpoint.endpoint_id, endpoint)
        insort(self._names, endpoint.name)
        self._index(endpoint)
        return endpoint

    def unregister(self, endpoint_id: str) -> None:
        """Remove an endpoint. If the endpoint was already removed, do nothing.

        Raises:
            NotFoundError: No endpoint ever had this id, a later registration has replaced the endpoint, or the registry
                has forgotten the removed endpoint.
        """
        endpoint = self._by_id.get(endpoint_id)
        if endpoint is None:
            if any(endpoint_id in removed for removed in self._removed.values()):
                return
            raise NotFoundError(
                f"there is no endpoint with id {quoted(endpoint_id)}", reason=ErrorReason.ENDPOINT_NOT_FOUND
            )
        self._changed(endpoint_id, Endpoint(endpoint_id=endpoint_id, job_id=endpoint.job_id))
        removed = self._removed.setdefault(endpoint.job_id, {})
        removed[endpoint_id] = None
        if len(removed) > _MAX_REMOVED:
            oldest = next(iter(removed))
            self._changed(oldest, None)
            del removed[oldest]
        self._remove(endpoint)

    def job_of(self, endpoint_id: str) -> str | None:
        """Return the id of the job that an endpoint belongs to. Return an empty string if the endpoint belongs to no
        job, and None if there is no endpoint with this id.
        """
        endpoint = self._by_id.get(endpoint_id)
        return None if endpoint is None else endpoint.job_id

    def lookup(self, name: str) -> Endpoint:
        """Return the endpoint with this name.

        Raises:
            NotFoundError: There is no endpoint with this name.
        """
        endpoint = self._find(name)
        if endpoint is None:
            raise NotFoundError(
                f"there is no endpoint named {quoted(name)}",
                reason=ErrorReason.ENDPOINT_NOT_FOUND,
                metadata={"name": name},
            )
        return endpoint

    def list(self, prefix: str, job_id: str = "", *, page_size: int = 0, page_token: str = "") -> Steps[Page[Endpoint]]:
        """Make a page of the endpoints whose names start with a prefix, in the order of their names.

        Args:
            prefix: The beginning of the names of the endpoints.
            job_id: Only the endpoints of this job are listed; an empty string lists the endpoints of all jobs.
            page_size: The largest number of endpoints; 0 for as many as fit into an answer.
            page_token: The token of this page from the previous page; an empty string for the first page.

        Raises:
            InvalidArgumentError: The page size or the page token is invalid.
        """
        first = bisect_left(self._names, prefix)
        # The names with the prefix end where `prefix` followed by the largest character would be in the sorted list.
        end = bisect_left(self._names, prefix + chr(0x10FFFF)) if prefix else len(self._names)
        names = self._names[first:end]
        if job_id:
            own = {one.name for one in self._by_id.values() if one.job_id == job_id} if job_id in self._count else set()
            names = [name for name in names if name in own]
        return cut_named_page("endpoints", names, self._find, page_size=page_size, page_token=page_token)

    def job_ids(self) -> set[str]:
        """Return the ids of the jobs with endpoints. A job with only removed endpoints is included while the registry
        remembers the ids of these endpoints.
        """
        return self._count.keys() | self._removed.keys()

    def job_ended(self, job_id: str) -> None:
        """Remove the endpoints of a job that has ended."""
        if job_id in self._count:
            for endpoint in [endpoint for endpoint in self._by_id.values() if endpoint.job_id == job_id]:
                self._changed(endpoint.endpoint_id, None)
                self._remove(endpoint)
        for endpoint_id in self._removed.pop(job_id, {}):
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

    def _index(self, endpoint: Endpoint) -> None:
        self._by_name[endpoint.name] = self._by_id[endpoint.endpoint_id] = endpoint
        self._count[endpoint.job_id] += 1

    def _remove(self, endpoint: Endpoint) -> None:
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
                f" {MAX_ENDPOINT_BYTES:,}: serve larger data at the address",
                reason=ErrorReason.TOO_LARGE,
            )

    def _check_count(self, job_id: str) -> None:
        if self._count[job_id] >= MAX_ENDPOINTS_OF_JOB or len(self._by_name) >= MAX_ENDPOINTS:
            for name in list(self._by_name):
                self._find(name)  # If the attempt of the endpoint has ended, the look-up removes the endpoint.
        of_job = f"of job {quoted(job_id)}" if job_id else "that belong to no job"
        for count, limit, where in (
            (self._count[job_id], MAX_ENDPOINTS_OF_JOB, of_job),
            (len(self._by_name), MAX_ENDPOINTS, "in this cluster"),
        ):
            if count >= limit:
                raise ResourceExhaustedError(
                    f"there are {count:,} endpoints {where}, which is the limit: unregister some of them first",
                    reason=ErrorReason.QUOTA_EXCEEDED,
                )


def _attempt_of(endpoint: Endpoint) -> tuple[int, int] | None:
    return (endpoint.task_index, endpoint.attempt_id) if endpoint.HasField("attempt_id") else None

"""Reports the progress of large requests to a function that the caller provides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SLICE_BYTES = 256 * 1024

# A function that is called with the number of sent bytes and the total number of bytes.
Report = Callable[[int, int], None]
_report: ContextVar[Report | None] = ContextVar("iris_upload_report", default=None)


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Return a context manager. Inside its block, a function is called with the progress of each request over 256 KiB
    that this thread sends.

    If the function raises an exception, the call ends, and the context manager raises the same exception. Otherwise the
    transport could take the exception for a fault of the connection, and would repeat the call.
    """
    raised: list[Exception] = []

    def guarded(sent: int, total: int) -> None:
        try:
            report(sent, total)
        except Exception as error:
            raised.append(error)
            raise

    token = _report.set(guarded)
    try:
        yield
    except Exception:
        if raised:
            raise raised[0] from None
        raise
    finally:
        _report.reset(token)


def in_slices(body: bytes) -> Iterator[bytes] | None:
    """Divide a request's body into slices, and yield the slices. The progress is reported each time a slice was sent.
    Return None if the body is small or no function is given to `reporting`.
    """
    report = _report.get()
    if report is None or len(body) <= _SLICE_BYTES:
        return None
    return _slices(body, report)


def _slices(body: bytes, report: Report) -> Iterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), _SLICE_BYTES):
        report(start, len(body))
        yield bytes(view[start : start + _SLICE_BYTES])
    report(len(body), len(body))

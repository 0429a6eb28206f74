"""The length of a lease, and the times that the worker, its reaper and the controller derive from that length.
`worker/supervision/lease.py` explains how the three clocks of a lease work together.
"""

DEFAULT_LEASE_S = 300.0
_LONGEST_HEARTBEAT_S = 5.0


def heartbeat_s(lease_s: float) -> float:
    """Return the seconds between two heartbeats of a worker. A lease of 0 s means that leases never expire."""
    return min(_LONGEST_HEARTBEAT_S, lease_s / 4) if lease_s else _LONGEST_HEARTBEAT_S


def kill_after_s(lease_s: float) -> float:
    """Return how many seconds a worker may go without an acknowledged report before its reaper kills the worker."""
    return lease_s + min(max(lease_s / 8, 0.5), 2.0)


def lost_after_s(lease_s: float) -> float:
    """Return for how many seconds a worker may be silent. Afterwards the controller declares the worker lost."""
    return lease_s + min(max(lease_s / 20, 2.0), 15.0)


def format_span(seconds: float) -> str:
    """Return a length of time as text, for example `90 s` or `5 min`."""
    return f"{seconds / 60:g} min" if seconds >= 120 and seconds % 60 == 0 else f"{seconds:g} s"

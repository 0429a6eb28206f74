"""Decides what is wrong between this client and the controller: the network, TLS, the clock and the token. This module
makes no calls: its input is what `examination.py` has measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from iris import versions
from iris.cli.doctor.findings import Finding, Status
from iris.cluster.client.task_token import Holder
from iris.durations import words_of_seconds
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import LEEWAY_S

_CONTROLLER = "controller"
_DAY_S = 86400.0
_CERTIFICATE_WARNING_S = 14 * _DAY_S
_TOKEN_WARNING_S = 3 * _DAY_S
_CLOCK_WARNING_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerProbe:
    """What a plain HTTP request to the controller has shown.

    Attributes:
        error: Why the controller cannot be reached. An empty string if it answers.
        advice: What to do about `error`.
        is_iris: Whether a server of Iris answers.
        is_ready: Whether the server has loaded the state of the cluster.
        clock_offset_s: By how many seconds the clock of the server is ahead of the clock of this machine. None if the
            offset is unknown. The offset is inexact by up to a second, because the server reports its time in whole
            seconds.
        certificate_left_s: The seconds until the certificate of the server expires, or None without TLS.
    """

    error: str = ""
    advice: str = ""
    is_iris: bool = False
    is_ready: bool = False
    clock_offset_s: float | None = None
    certificate_left_s: float | None = None


def judge_server(probe: ServerProbe, address: str) -> list[Finding]:
    """Return the findings about the connection from this machine to the controller."""
    if probe.error:
        text = f"{address} cannot be reached from this machine: {probe.error}"
        return [Finding("reachability", _CONTROLLER, Status.PROBLEM, text, probe.advice)]
    if not probe.is_iris:
        text = f"the server at {address} is not a server of Iris, or has a release without /healthz"
        advice = "check the address and the port, and that a proxy in front of the controller passes all paths on"
        return [Finding("reachability", _CONTROLLER, Status.WARNING, text, advice)]
    found = [Finding("reachability", _CONTROLLER, Status.OK, f"answers at {address}")]
    if not probe.is_ready:
        text = "is loading its state, which can take minutes after an upgrade"
        found.append(Finding("readiness", _CONTROLLER, Status.PROBLEM, text, "wait, and run iris doctor again"))
    if probe.clock_offset_s is not None:
        found.append(_judge_clock(_CONTROLLER, probe.clock_offset_s, "this machine"))
    if probe.certificate_left_s is not None:
        found.append(_judge_certificate(probe.certificate_left_s))
    return found


def _judge_clock(subject: str, offset_s: float, other: str) -> Finding:
    apart = f"its clock is {abs(offset_s):.1f} s {'ahead of' if offset_s > 0 else 'behind'} the clock of {other}"
    advice = "set the clocks with NTP (chrony or systemd-timesyncd)"
    if abs(offset_s) > LEEWAY_S:
        text = f"{apart}. Tokens are accepted up to {LEEWAY_S:g} s outside of their time"
        return Finding("clock", subject, Status.PROBLEM, text, advice)
    if abs(offset_s) > _CLOCK_WARNING_S:
        return Finding("clock", subject, Status.WARNING, apart, advice)
    return Finding("clock", subject, Status.OK, f"its clock agrees with the clock of {other}")


def judge_worker_clock(subject: str, offset_ms: int) -> Finding:
    """Return the finding about the clock of a worker.

    Args:
        subject: The name of the worker in the finding.
        offset_ms: By how many milliseconds the clock of the worker is ahead of the controller's clock.
    """
    return _judge_clock(subject, offset_ms / 1000, "the controller")


def _judge_certificate(left_s: float) -> Finding:
    advice = "renew the certificate, and run 'iris down' and 'iris up' on the machine of the controller"
    if left_s <= 0:
        return Finding("tls", _CONTROLLER, Status.PROBLEM, "its certificate has expired", advice)
    text = f"its certificate expires in {words_of_seconds(left_s)}"
    if left_s < _CERTIFICATE_WARNING_S:
        return Finding("tls", _CONTROLLER, Status.WARNING, text, advice)
    return Finding("tls", _CONTROLLER, Status.OK, text)


def judge_token(holder: Holder | None, now_ms: int, *, is_given: bool) -> Finding:
    """Return the finding about the token of this client.

    Args:
        holder: The holder that the token names. None if the token is malformed, or if this client has no token.
        now_ms: The current time, in milliseconds since the epoch.
        is_given: Whether this client has a token for the cluster.
    """
    advice = "run 'iris login ADDRESS', or set IRIS_TOKEN; an admin creates a token with 'iris token create NAME'"
    if not is_given:
        return Finding("token", "client", Status.PROBLEM, "there is no token for this cluster", advice)
    if holder is None:
        return Finding("token", "client", Status.PROBLEM, "the token does not have the form of a token of Iris", advice)
    left_s = holder.expires_at_ms / 1000 - now_ms / 1000
    who = f"the token of {holder.name!r} has the role {holder.role!r}"
    if left_s <= 0:
        return Finding("token", "client", Status.PROBLEM, f"{who}, and has expired", advice)
    text = f"{who}, and expires in {words_of_seconds(left_s)}"
    if left_s < _TOKEN_WARNING_S:
        return Finding("token", "client", Status.WARNING, text, advice)
    return Finding("token", "client", Status.OK, text)


def judge_versions(described: cluster_pb2.Controller.DescribeClusterResponse) -> Finding:
    """Return the finding about the releases of this client and the controller."""
    theirs = described.version or versions.FIRST
    why_not = versions.why_not_together(theirs, "it", versions.VERSION, "this client")
    if why_not:
        return Finding("version", _CONTROLLER, Status.PROBLEM, why_not, "see docs/how-to/upgrade-a-cluster.md")
    return Finding("version", _CONTROLLER, Status.OK, f"has Iris {theirs}, and this client has {versions.VERSION}")

"""Records who uses tunnels in the event log: one event when a tunnel is opened, and one when it is closed.

A client whose connection breaks opens the same tunnel again. Therefore the end of a stream does not end the use of the
tunnel. A use ends when the client closes the tunnel, when the attempt has ended, or when the client does not come back.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from iris.event_log import log_event
from iris.rpc.auth.caller import Caller
from iris.rpc.tunnels.tunnel import ABANDONED_S

_MOST_TARGETS = 100  # The event log gets at most this many different targets of one tunnel.
_log = logging.getLogger(__name__)

TunnelKey = tuple[str, int, str]  # Identifies a tunnel by the task id, the attempt id, and the tunnel id.


@dataclass(slots=True)
class TunnelUse:
    """A tunnel that a user has opened.

    Attributes:
        user: The user.
        is_opened: Whether a stream of the tunnel was opened.
        streams: The number of open streams. A client may open a new stream before the controller notices that the
            earlier stream has broken.
        targets: The targets that the event log already contains.
        abandoned: The timer that ends the use, while no stream is open.
    """

    user: Caller
    is_opened: bool = False
    streams: int = 0
    targets: set[str] = field(default_factory=set)
    abandoned: asyncio.TimerHandle | None = None


class TunnelUses:
    """The tunnels with one purpose that are in use. Only code on the event loop of the controller calls the methods of
    this class.

    Args:
        event: The first word of the names of the events.
        abandoned_s: A use ends if the client has not come back after this many seconds without a stream.
    """

    def __init__(self, event: str, abandoned_s: float = ABANDONED_S) -> None:
        self._event = event
        self._abandoned_s = abandoned_s
        self._uses: dict[TunnelKey, TunnelUse] = {}

    def is_known(self, key: TunnelKey) -> bool:
        """Return whether a tunnel is in use. After a restart of the controller, a tunnel becomes known when its client
        resumes it.
        """
        return key in self._uses

    def stream_opened(self, key: TunnelKey, user: Caller, *, resumes: bool) -> TunnelUse:
        """Record a stream that the worker has accepted, and return the use to which the stream belongs.

        Args:
            key: The tunnel.
            user: The caller.
            resumes: Whether the client continues a tunnel that it opened earlier. The opening of such a tunnel is not
                recorded again. After a restart of the controller, an earlier process has recorded it.
        """
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = TunnelUse(user)
        if not use.is_opened and not resumes:
            self._log("opened", key, user)
        use.is_opened = True
        use.streams += 1
        if use.abandoned is not None:
            use.abandoned.cancel()
            use.abandoned = None
        return use

    def stream_ended(self, key: TunnelKey, use: TunnelUse) -> None:
        """Record the end of a stream, after which the client may come back.

        Args:
            key: The tunnel.
            use: The use to which the stream belongs. If this use has ended already, nothing happens, even if a client
                has opened the tunnel again meanwhile.
        """
        if self._uses.get(key) is not use:
            return
        use.streams -= 1
        if not use.streams:
            self._expect_client(key, use)

    def end(self, key: TunnelKey) -> None:
        """Record the end of a use. Do nothing if the use is not known or has ended already."""
        use = self._uses.pop(key, None)
        if use is None:
            return
        if use.abandoned is not None:
            use.abandoned.cancel()
        self._log("closed", key, use.user)

    def target_used(self, key: TunnelKey, user: Caller, fields: dict[str, Any]) -> None:
        """Record what a tunnel connects to, once for each target.

        Args:
            key: The tunnel. The tunnel must exist on the worker. If the tunnel is not known here, a use begins, which
                ends if no stream is opened.
            user: The caller.
            fields: The target, as fields of the event. An empty dictionary records nothing.
        """
        if not fields:
            return
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = TunnelUse(user)
            self._expect_client(key, use)
        target = " ".join(map(str, fields.values()))
        if target not in use.targets and len(use.targets) < _MOST_TARGETS:
            use.targets.add(target)
            self._log("used", key, user, **fields)

    def _expect_client(self, key: TunnelKey, use: TunnelUse) -> None:
        """End a use without a stream if its client does not come back."""
        use.abandoned = asyncio.get_running_loop().call_later(self._abandoned_s, self.end, key)

    def _log(self, what: str, key: TunnelKey, user: Caller, **fields: Any) -> None:
        task_id, attempt_id, tunnel_id = key
        event = f"{self._event}.{what}"
        known: dict[str, Any] = {"user": user.name, "role": user.role, "task_id": task_id, "attempt_id": attempt_id}
        log_event(_log, event, **known, **fields, tunnel_id=tunnel_id)

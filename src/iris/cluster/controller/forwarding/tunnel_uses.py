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
    """The use of a tunnel by the user who has opened the tunnel.

    Attributes:
        user: The user who uses the tunnel.
        is_opened: Whether a stream of the tunnel was opened.
        streams: The number of open streams. A client may open a new stream before the controller notices that the
            earlier stream has broken.
        targets: The targets of the tunnel that the event log already contains.
        abandoned: The timer that ends the use of the tunnel if no stream is opened in time. None while a stream is
            open.
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
        abandoned_s: The use of a tunnel ends after this many seconds without a stream.
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
        """Record a stream of a tunnel that the worker has accepted, and return the use of the tunnel.

        Args:
            key: The task id, the attempt id and the id of the tunnel.
            user: The user who makes the call.
            resumes: Whether the client continues a tunnel that it opened earlier. The event log already contains the
                opening of such a tunnel, therefore no further event is written.
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
        """Record the end of a stream of a tunnel. The use of the tunnel continues for a while, because the client may
        open a new stream.

        Args:
            key: The task id, the attempt id and the id of the tunnel.
            use: The use of the tunnel that `stream_opened` has returned. If this use has ended, nothing happens, even
                if a client has opened the tunnel again meanwhile.
        """
        if self._uses.get(key) is not use:
            return
        use.streams -= 1
        if not use.streams:
            self._expect_client(key, use)

    def end(self, key: TunnelKey) -> None:
        """Record that a tunnel is no longer in use. If the tunnel is not in use, do nothing."""
        use = self._uses.pop(key, None)
        if use is None:
            return
        if use.abandoned is not None:
            use.abandoned.cancel()
        self._log("closed", key, use.user)

    def target_used(self, key: TunnelKey, user: Caller, fields: dict[str, Any]) -> None:
        """Record what a tunnel connects to, once for each target.

        Args:
            key: The tunnel, which must exist on the worker. If the tunnel is not in use, a use begins, which ends if
                no stream is opened in time.
            user: The user who makes the call.
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
        """End the use of a tunnel without streams, unless its client opens a stream in time."""
        use.abandoned = asyncio.get_running_loop().call_later(self._abandoned_s, self.end, key)

    def _log(self, what: str, key: TunnelKey, user: Caller, **fields: Any) -> None:
        task_id, attempt_id, tunnel_id = key
        event = f"{self._event}.{what}"
        known: dict[str, Any] = {"user": user.name, "role": user.role, "task_id": task_id, "attempt_id": attempt_id}
        log_event(_log, event, **known, **fields, tunnel_id=tunnel_id)

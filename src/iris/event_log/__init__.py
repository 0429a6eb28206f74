"""The event logs: what the controller and the workers say about themselves, on top of Python's `logging`.

`log_event` writes one event with named fields. `set_up_event_log` decides once per process in which format events are
written, and rotates the file. All parts of Iris may import this package.
"""

from iris.event_log.events import log_event
from iris.event_log.output import set_up_event_log

__all__ = ["log_event", "set_up_event_log"]

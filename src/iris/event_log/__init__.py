"""Writes event logs, in which the controller and the workers record their actions, with Python's `logging`.

`log_event` writes one event with named fields. `set_up_event_log` is called once per process, and chooses the format
and the rotation of the file. All parts of Iris may import this package.
"""

from iris.event_log.events import log_event
from iris.event_log.output import set_up_event_log

__all__ = ["log_event", "set_up_event_log"]

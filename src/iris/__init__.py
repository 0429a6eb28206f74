"""Iris runs jobs of many tasks and shows what each task does. Users start with `from iris import IrisClient`.

A job passes ten stops on its way through the code, in this order:
1. A user calls `iris.client.client`, or types a command of `iris.cli`.
2. The client sends a request: `iris.cluster.client.remote_client`.
3. The controller validates the request: `iris.cluster.controller.submission`.
4. The controller's loop changes its state, and saves each change: `iris.cluster.controller.controller`, `storage`.
5. A pure state machine decides what happens next: `iris.cluster.controller.jobs`.
6. The scheduler decides which gang starts next: `iris.cluster.controller.scheduling`.
7. An engine allocates slots: `iris.cluster.engine`.
8. A worker starts each attempt as a process: `iris.cluster.worker`.
9. The output of the process becomes a log: `iris.cluster.logs`.
10. The log is streamed to a reader and turned into lines: `iris.client.logs`.

The names in `__all__` are imported from their modules when they are first used, so that `import iris` itself is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iris.client import IrisClient, Job, LogEntry, Task
    from iris.client.aio import AsyncIrisClient, AsyncJob, AsyncTask
    from iris.cluster.types import JobInfo, JobState, ResourceSpec, TaskState
    from iris.cluster.types import ResourceSpec as Resources
    from iris.cluster.types import get_job_info as current_job
    from iris.errors import IrisError, JobFailedError

    __version__: str

__all__ = [
    "IrisClient",
    "AsyncIrisClient",
    "Resources",
    "current_job",
    "Job",
    "Task",
    "AsyncJob",
    "AsyncTask",
    "JobState",
    "TaskState",
    "JobInfo",
    "LogEntry",
    "ResourceSpec",
    "IrisError",
    "JobFailedError",
    "__version__",
]

# For each public name: the module that defines it, and the name in that module.
_NAMES = {
    "IrisClient": ("iris.client", "IrisClient"),
    "AsyncIrisClient": ("iris.client.aio", "AsyncIrisClient"),
    "Resources": ("iris.cluster.types", "ResourceSpec"),
    "current_job": ("iris.cluster.types", "get_job_info"),
    "Job": ("iris.client", "Job"),
    "Task": ("iris.client", "Task"),
    "AsyncJob": ("iris.client.aio", "AsyncJob"),
    "AsyncTask": ("iris.client.aio", "AsyncTask"),
    "JobState": ("iris.cluster.types", "JobState"),
    "TaskState": ("iris.cluster.types", "TaskState"),
    "JobInfo": ("iris.cluster.types", "JobInfo"),
    "LogEntry": ("iris.client", "LogEntry"),
    "ResourceSpec": ("iris.cluster.types", "ResourceSpec"),
    "IrisError": ("iris.errors", "IrisError"),
    "JobFailedError": ("iris.errors", "JobFailedError"),
    "__version__": ("iris.versions", "VERSION"),
}


# Type checkers do not see `__getattr__`, because with it they would accept every name of this module.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name of `__all__`. Python calls this function once for each name.

        Raises:
            AttributeError: `iris` has no such name.
        """
        if name not in _NAMES:
            raise AttributeError(f"module 'iris' has no attribute {name!r}")
        module, attribute = _NAMES[name]
        value = globals()[name] = getattr(import_module(module), attribute)
        return value


def __dir__() -> list[str]:
    """Return the names of this package, including the public names that are not imported yet."""
    return sorted({*globals(), *__all__})

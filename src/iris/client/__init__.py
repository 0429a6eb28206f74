"""The Python API: the client of a cluster, and handles on jobs and tasks. This package imports no code of servers."""

from iris.client.client import IrisClient
from iris.client.job import Job, Task
from iris.cluster.logs.entries.log_entry import LogEntry

__all__ = ["IrisClient", "Job", "Task", "LogEntry"]

"""Contains the Python API: the client of a cluster, and handles on jobs and tasks. It imports no server code."""

from iris.client.client import IrisClient
from iris.client.job import Job, Task
from iris.cluster.logs.entries.log_entry import LogEntry

__all__ = ["IrisClient", "Job", "Task", "LogEntry"]

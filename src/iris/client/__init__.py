"""What a user holds: a client of a cluster, and handles on its jobs and tasks."""

from iris.client.client import IrisClient
from iris.client.job import Job, LogEntry, Task

__all__ = ["IrisClient", "Job", "Task", "LogEntry"]

"""Contains the Python API for programs that use asyncio: the client of a cluster, and handles on jobs and tasks.
`iris.client` does not import this package, so that a program without asyncio does not load it.
"""

from iris.client.aio.client import AsyncIrisClient
from iris.client.aio.job import AsyncJob, AsyncTask
from iris.client.aio.streams import AsyncLogStream
from iris.cluster.logs.entries.log_entry import LogEntry

__all__ = ["AsyncIrisClient", "AsyncJob", "AsyncTask", "AsyncLogStream", "LogEntry"]

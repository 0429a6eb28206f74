"""Lists the public names of the Python API, in the order of their page."""

from __future__ import annotations

# A section for each class: its name and the module from which users import it.
CLASSES = (
    ("IrisClient", "iris"),
    ("Job", "iris"),
    ("Task", "iris"),
    ("MapJob", "iris.client.maps.map_job"),
    ("LogEntry", "iris"),
    ("LogStream", "iris.client.logs.streams"),
    ("TreeLogStream", "iris.client.logs.tree"),
    ("Forward", "iris.client.forwarding.forward"),
    ("ExecResult", "iris.client.exec.arguments"),
    ("ExecProcess", "iris.client.exec.process"),
    ("ExecOutput", "iris.client.exec.process"),
    ("Outputs", "iris.client.files.outputs"),
    ("Output", "iris.client.files.outputs"),
    ("MissingOutputs", "iris.client.files.outputs"),
    ("Copied", "iris.client.files.copied"),
    ("JobStacks", "iris.client.inspect.stacks"),
    ("TaskStacks", "iris.client.inspect.stacks"),
    ("ProcessStacks", "iris.client.inspect.stacks"),
    ("ThreadStack", "iris.client.inspect.stacks"),
    ("StackGroup", "iris.client.inspect.stacks"),
    ("Frame", "iris.client.inspect.stacks"),
    ("Variable", "iris.client.inspect.stacks"),
    ("Profile", "iris.client.inspect.profile"),
    ("ProfiledTask", "iris.client.inspect.profile"),
    ("FunctionShare", "iris.client.inspect.profile"),
    ("WatchedJobs", "iris.cluster.client.operations.watches.list_watching"),
    ("Resources", "iris"),
    ("JobInfo", "iris"),
    ("JobState", "iris"),
    ("TaskState", "iris"),
)
# Classes for asyncio, and the classes whose methods they repeat.
ASYNC_CLASSES = (
    ("AsyncIrisClient", "iris", "IrisClient"),
    ("AsyncJob", "iris", "Job"),
    ("AsyncTask", "iris", "Task"),
    ("AsyncMapJob", "iris.client.aio.maps.map_job", "MapJob"),
    ("AsyncLogStream", "iris.client.aio", "LogStream"),
    ("AsyncOutputs", "iris.client.aio.files.outputs", "Outputs"),
    ("AsyncOutput", "iris.client.aio.files.outputs", "Output"),
    ("AsyncTreeLogStream", "iris.client.aio.logs.tree", "TreeLogStream"),
    ("AsyncForward", "iris.client.forwarding.async_forward", "Forward"),
    ("AsyncExecProcess", "iris.client.exec.async_process", "ExecProcess"),
    ("AsyncExecOutput", "iris.client.exec.async_process", "ExecOutput"),
)
FUNCTIONS = (
    ("current_job", "iris"),
    ("is_job_finished", "iris.cluster.types"),
    ("is_task_finished", "iris.cluster.types"),
    ("state_name", "iris.cluster.types"),
)
# Classes of the low-level API, of which the page lists the methods only.
LOW_LEVEL = (
    ("RemoteClusterClient", "iris.cluster.client.remote_client"),
    ("LocalClusterClient", "iris.cluster.client.local_client"),
)
# Public methods that only other modules of Iris call.
INTERNAL = {
    "LogEntry.position",
    "LogEntry.origin",
    "LogEntry.set_other_positions",
    "LogEntry.with_earlier_parts",
    "Resources.given",
    "Resources.cpu_millicores",
    "Resources.memory_bytes",
}

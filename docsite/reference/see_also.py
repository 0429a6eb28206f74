"""The pages to which the sections of the reference pages link. Paths are relative to `docs`."""

from __future__ import annotations

COMMANDS: dict[str, list[str]] = {
    "iris": ["reference/names.md", "reference/job-files.md", "reference/environment.md"],
    "iris run": [
        "reference/job-files.md",
        "how-to/reserve-resources.md",
        "how-to/retry-failed-tasks.md",
        "how-to/set-timeouts.md",
        "how-to/map-a-function.md",
        "how-to/chain-jobs.md",
        "how-to/pass-a-workspace.md",
    ],
    "iris retry": ["how-to/retry-failed-tasks.md"],
    "iris describe": ["how-to/debug-a-failed-task.md"],
    "iris usage": ["how-to/reserve-resources.md"],
    "iris logs": ["how-to/follow-logs.md"],
    "iris forward": ["how-to/reach-a-port.md"],
    "iris exec": ["how-to/run-commands-in-a-task.md"],
    "iris shell": ["how-to/run-commands-in-a-task.md"],
    "iris endpoints": ["how-to/connect-tasks.md", "how-to/reach-a-port.md"],
    "iris machines": ["how-to/debug-a-waiting-task.md"],
    "iris kill": ["how-to/end-a-job.md"],
    "iris rm": ["how-to/remove-old-jobs.md"],
    "iris up": ["reference/configuration.md", "how-to/secure-a-cluster.md", "how-to/upgrade-a-cluster.md"],
    "iris down": ["how-to/upgrade-a-cluster.md"],
    "iris login": ["how-to/use-several-clusters.md"],
    "iris context": ["how-to/use-several-clusters.md"],
    "iris token": ["how-to/secure-a-cluster.md"],
    "iris proto export": ["clients.md"],
}
# For classes of the Python API.
CLASS_PAGES: dict[str, list[str]] = {
    "IrisClient": ["how-to/secure-a-cluster.md", "how-to/use-several-clusters.md", "how-to/use-a-transport.md"],
    "AsyncIrisClient": ["how-to/use-asyncio.md"],
    "Job": ["how-to/get-results.md", "how-to/watch-jobs.md"],
    "MapJob": ["how-to/map-a-function.md"],
    "LogStream": ["how-to/follow-logs.md"],
    "Forward": ["how-to/reach-a-port.md"],
    "ExecProcess": ["how-to/run-commands-in-a-task.md"],
    "Resources": ["how-to/reserve-resources.md"],
    "JobState": ["reference/states.md"],
    "TaskState": ["reference/states.md"],
}

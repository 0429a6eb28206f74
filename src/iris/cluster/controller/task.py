"""The public import path of `Task` and `TaskAttempt`, which are defined in `iris.cluster.controller.jobs.task`."""

from iris.cluster.controller.jobs.task import Task, TaskAttempt

__all__ = ["Task", "TaskAttempt"]

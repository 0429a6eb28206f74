"""Makes the labels of tasks, which stand before the lines of several tasks."""

from __future__ import annotations


def label_width(num_tasks: int) -> int:
    """Return the width of the widest task name in a job with this number of tasks."""
    return len(f"task-{num_tasks - 1}")


def task_label(task_index: int, width: int) -> str:
    """Return the label of a task, padded to a width so that all labels of a job end in the same column."""
    return f"task-{task_index}".ljust(width) + " |"

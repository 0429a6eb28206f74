"""Gathers the call stacks of the tasks of a job from their workers. The controller's service imports this package."""

"""Runs commands of clients beside the program of an attempt: `iris exec` and `iris shell`.

The command has the directory, environment, limits and cgroup of the attempt, and ends with the attempt. Only the worker
imports this package.
"""

"""Runs commands of clients beside the program of an attempt: `iris exec` and `iris shell`.

Such a command has the directory, environment, limits and cgroup of its attempt, and ends with the attempt. Only the
worker imports this package.
"""

"""The limits and the usage of attempts: cgroups, process tables, samples of CPU and memory.

The worker imports this package. The server uses `cgroup.py` before it starts workers.
"""

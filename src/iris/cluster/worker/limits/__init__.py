"""Measures the resources that attempts use, and enforces their limits by cgroups or by killing processes. The worker
imports this package. The server uses `cgroup.py` before it starts workers.
"""

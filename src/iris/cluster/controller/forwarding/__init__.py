"""Relays tunnels between clients and workers, so that a client reaches ports of tasks, and runs commands in tasks,
through the controller alone. Only the controller's service and `iris.server` import this package.
"""

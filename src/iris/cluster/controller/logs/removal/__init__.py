"""Decides which logs the retention rules remove, and removes the logs of removed jobs. The other modules of the log
keeper, `iris.cluster.controller.removal` and `iris.server` import this package.
"""

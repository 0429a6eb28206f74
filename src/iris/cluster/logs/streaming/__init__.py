"""Sends logs to readers while the logs are written. The worker streams the logs of its attempts, and the controller
streams the logs that it keeps.
"""

"""The controller's part of logging. The package receives logs from workers, keeps and removes logs, and relays logs to
readers. Only the controller and `iris.server` import this package.
"""

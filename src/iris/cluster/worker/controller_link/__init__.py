"""The worker's calls to its controller, and the checks of the tokens that callers show to the worker.

The package contains the connection, the reports and the log uploads. Only the worker imports this package.
"""

"""The worker's calls to its controller, and the checks of the tokens that others show to the worker.

Contains the connection, the reports and the log uploads. Only the worker imports this package.
"""

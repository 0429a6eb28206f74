"""Calls the controller of a worker, and checks the tokens of the worker's callers. The package contains the connection,
the reports and the log uploads. Only the worker imports this package.
"""

"""Contains the server program, `python -m iris.server`. `iris up` and `IrisClient.local()` start this program.

The server connects a controller with its engine and its services, which do not depend on the server. Only tests and
benchmarks import this package.
"""

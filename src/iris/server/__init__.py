"""Contains the server program, `python -m iris.server`. `iris up` and `IrisClient.local()` start this program.

The server connects a controller with an engine and with the services for calls. Only tests and benchmarks import this
package.
"""

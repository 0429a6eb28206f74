"""The program of a controller: `python -m iris.server`, which `iris up` and `IrisClient.local()` start.

The package puts the controller, its engine and its services together; the parts know nothing of it. Only tests and
benchmarks import it.
"""

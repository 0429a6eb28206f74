"""Callables, results and exceptions as pickles that load on machines without the caller's code.

The client and the program of a task's process use this package, in both directions. The program loads it by path under
another name and never imports `iris`, because a file `iris.py` in a task's directory would take that name. Therefore
the modules here import each other relatively, and otherwise only the standard library and cloudpickle.
"""

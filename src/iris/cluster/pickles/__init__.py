"""Pickles callables, results and exceptions so that they load on machines without the caller's code.

The client and the program in a task's process use this package. The task's program loads the package by its path, under
another name, because a file `iris.py` in the task's directory could hide the package `iris`. The modules in this
package therefore import each other relatively, and otherwise only the standard library and cloudpickle.
"""

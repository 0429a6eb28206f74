"""Runs the attempts of tasks: checks the request, prepares the directory, ports and environment, runs the process, and
finds out how the attempt has ended. Only the worker imports this package.
"""

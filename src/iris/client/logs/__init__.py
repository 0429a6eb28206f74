"""Reads the logs of tasks on the side of the client: options, entries, and the two stages of a stream.

`streams.py` has the overview. Only `iris.client` and the command line import this package.
"""

"""Reads the logs of tasks for the client: options, routes, and the two stages of a stream. `streams.py` contains the
overview. Only `iris.client` and the command line import this package.
"""

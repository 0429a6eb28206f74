"""The log of an attempt: records, segments, cursors, writing, and what both sides of a log upload must know.

The client, the worker and the controller import this package.
"""

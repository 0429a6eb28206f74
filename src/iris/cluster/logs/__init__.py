"""The log of an attempt: records, segments, cursors, writing, reading, log uploads, and the follow engine.

The client, the worker and the controller import this package. The package imports neither the client nor the worker nor
the controller.
"""

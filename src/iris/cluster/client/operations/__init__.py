"""The operations of a client. An operation defines which calls are made in which order, and a runner makes the calls.

The sync and the async low-level client carry out the same operations: the sync client in the thread of the caller, the
async client on an event loop. Only `iris.cluster.client`, `iris.client` and the command line import this package.
"""

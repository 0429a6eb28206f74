"""The operations of a client. An operation defines which calls are made in which order, and a runner makes the calls.

Both low-level clients carry out the same operations, one with threads and one with asyncio. Only `iris.client` and
`iris.cluster.client` import this package.
"""

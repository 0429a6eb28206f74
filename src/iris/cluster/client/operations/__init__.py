"""The operations of a client: what the client calls in which order, without how it calls.

Both low-level clients carry out the same operations, one with threads and one with asyncio. Only `iris.client` and
`iris.cluster.client` import this package.
"""

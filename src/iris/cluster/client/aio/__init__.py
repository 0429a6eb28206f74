"""The low-level client of a cluster for programs that use asyncio, and its connections. Only `iris.client.aio` imports
this package.
"""

"""The low-level client of a cluster for programs that use asyncio, and its connections. Only the async parts of
`iris.client` import this package.
"""

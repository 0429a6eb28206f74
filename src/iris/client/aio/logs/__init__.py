"""Reads the future lines of a log stream, and the logs of a tree of jobs, with asyncio. Only `iris.client.aio` imports
this package.
"""

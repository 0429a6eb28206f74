"""Keeps a tunnel to an attempt open through broken connections. Forwards and commands in tasks use this package. A
tunnel runs on one asyncio loop. The sync client runs this loop in a thread.
"""

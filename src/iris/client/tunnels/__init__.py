"""Keeps a tunnel to an attempt open through broken connections. Forwards and commands in tasks use this package. One
asyncio loop owns a tunnel. The sync client runs the loop in a thread.
"""

"""Keeps a tunnel to an attempt open, even if its connection breaks. Port forwarding uses tunnels, and so does running
a command in a task (`iris exec`). A tunnel runs on one asyncio loop. The sync client runs this loop in a thread.
"""

"""Forwards local ports to ports of tasks. Only the clients and the command line import this package. The connections of
a forward run on one asyncio loop. The sync client runs this loop in a separate thread for each forward.
"""

"""Forwards local ports to ports of tasks. Only the clients and the command line import this package. One asyncio loop
owns the connections of a forward. The sync client runs the loop in a thread of the forward.
"""

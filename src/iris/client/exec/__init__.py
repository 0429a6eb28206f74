"""Runs commands in tasks. Only the clients and the command line import this package. The session of a command runs on
one asyncio loop. The sync client runs this loop in a separate thread for each command.
"""

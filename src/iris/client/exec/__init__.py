"""Runs commands in tasks. Only the clients and the command line import this package. One asyncio loop owns a command's
session. The sync client runs the loop in a thread of the command.
"""

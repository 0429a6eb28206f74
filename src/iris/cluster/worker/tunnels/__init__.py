"""Connects the channels of clients to ports of running attempts, and decides which ports a client may reach. Only the
worker imports this package.
"""

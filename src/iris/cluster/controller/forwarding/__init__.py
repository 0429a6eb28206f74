"""Relays tunnels between clients and workers, so that a client reaches ports of tasks through the controller alone.
Only the controller imports this package.
"""

"""Logs at the controller: receives logs from workers, keeps and removes them, and relays them to readers.

Only the controller and `iris.server` import this package.
"""

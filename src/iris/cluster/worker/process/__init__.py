"""Starts, feeds, captures and collects the processes of attempts. Only the worker imports this package."""

"""Prints the output of `iris`: text for people, JSON for programs. The commands import this package."""

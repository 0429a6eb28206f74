"""Submits earlier jobs again. The sync and the async client import this package."""

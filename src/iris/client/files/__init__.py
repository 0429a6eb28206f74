"""Copies files from and to tasks, and reads the outputs of jobs. The sync and the async client import this package."""

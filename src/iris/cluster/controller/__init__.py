"""Decides: jobs and tasks, whose turn it is, and what is remembered."""

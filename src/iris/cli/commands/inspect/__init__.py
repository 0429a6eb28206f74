"""The commands that look inside of running tasks."""

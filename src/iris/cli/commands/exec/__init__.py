"""The commands that run other commands in tasks: `iris exec` and `iris shell`."""

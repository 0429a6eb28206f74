"""Connects a command that runs in a task with the streams, the terminal and the signals of the process `iris exec`.
Only modules in `iris.cli.commands` import this package.
"""

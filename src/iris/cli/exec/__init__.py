"""Joins a command in a task to the streams, the terminal and the signals of `iris exec`. Only the commands import
it."""

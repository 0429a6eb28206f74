"""Runs `iris` when Python is started with `python -m iris.cli`."""

from iris.cli import main

main()

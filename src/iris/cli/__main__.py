"""`python -m iris.cli` is `iris`."""

from iris.cli import main

main()

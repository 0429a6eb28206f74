"""Shows tables and progress to people who use Iris from Python, in a terminal, in a notebook, or as plain text.

The client imports this package. The package needs nothing beyond Python; IPython is used only in a program that has
already imported IPython.
"""

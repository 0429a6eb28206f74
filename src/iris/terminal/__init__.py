"""Terminal output: stdout and stderr, unfinished lines and progress bars of tasks, and filtering of control sequences.

The client and the command line write through these modules, which know nothing of clusters and need no other package.
"""

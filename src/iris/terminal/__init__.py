"""What Iris prints, and how: stdout and stderr, unfinished lines of tasks, and text that must not steer a terminal.

The client and the command line write through these modules. They know nothing of clusters, and need no other package.
"""

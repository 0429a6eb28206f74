"""Writes to the terminal: stdout and stderr, unfinished lines and progress bars of tasks, filtered control sequences.
The client and the command line write through these modules. The modules do not depend on the cluster.
"""

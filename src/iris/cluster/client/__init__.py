"""Contains two low-level clients: one for a running cluster, and one that starts a cluster on this machine. Also packs
the pickles and workspaces of submitted jobs.
"""

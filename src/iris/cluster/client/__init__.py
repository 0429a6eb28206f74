"""Low-level clients: of a running cluster, and of a new cluster on this machine. Also what a submission sends:
pickles and workspaces.
"""

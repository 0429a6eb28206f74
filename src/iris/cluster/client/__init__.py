"""Contains the low-level clients of a running cluster and of a new cluster on this machine. Also packs the pickles and
workspaces that a submission sends.
"""

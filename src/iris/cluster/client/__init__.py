"""Contains the low-level clients, sync and async: for a running cluster, and for a cluster that the client starts on
this machine. Also pickles the callables of submitted jobs, and packs their workspaces.
"""

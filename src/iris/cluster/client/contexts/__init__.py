"""Remembers clusters by name, and chooses the cluster that a client or a command calls. `IrisClient.remote` and the
command line use these modules, so that both find the same cluster.
"""

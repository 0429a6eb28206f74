"""Reads folded logs. A folded log is a small log of an ended attempt that the controller has moved from its files into
one database, which all folded logs share.

The modules of `iris.cluster.logs` that read files of a log use this package. Only the controller writes the database
(cluster/controller/logs/folding.py).
"""

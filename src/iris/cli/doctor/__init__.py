"""The checks of `iris doctor`: code that measures the cluster, and code that decides what is wrong with the cluster.
Only the command `iris doctor` imports this package.
"""

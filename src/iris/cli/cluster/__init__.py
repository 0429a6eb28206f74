"""Finds the cluster and the jobs that a command addresses, and waits for the ends of jobs. The package also starts the
cluster of `iris up`, and collects support bundles.

The commands of `iris` import this package.
"""

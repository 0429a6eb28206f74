"""Finds the cluster that a command addresses, starts the cluster of `iris up`, and collects support bundles.

The commands of `iris` import this package.
"""

"""Hints for people who type commands and options of other tools: kubectl, docker, Slurm, Modal and Ray.

Only `iris.cli` imports this package.
"""

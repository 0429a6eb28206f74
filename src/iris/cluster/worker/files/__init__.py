"""Copies files from and to the directories of attempts, and collects the outputs of ended attempts. Only the worker
imports this package.
"""

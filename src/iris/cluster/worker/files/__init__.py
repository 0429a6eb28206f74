"""Copies files from and to the directories of attempts, and collects the outputs of ended attempts. Only `worker.py`,
`service.py` and `wiring.py` of the worker import this package.
"""

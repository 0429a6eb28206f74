"""The worker's calls to its controller, and what the worker accepts from others.

Contains reports, log uploads, and the checks of tokens. Only the worker imports this package; engines import the
credentials of workers from `trust.py`.
"""

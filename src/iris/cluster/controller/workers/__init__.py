"""The registered workers, and the calls that start and stop attempts on them.

Only the controller imports this package.
"""

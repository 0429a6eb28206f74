"""Reads and samples the call stacks of attempts with py-spy, without changing or stopping the attempts. The worker and
its service import this package.
"""

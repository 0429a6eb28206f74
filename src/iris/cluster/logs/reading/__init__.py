"""Reads the log of an attempt from disk: whole records, pages of lines, tails, and filters. The worker and the
controller import this package.
"""

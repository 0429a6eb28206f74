"""Reads the log of an attempt from disk: whole records, pages of lines, tails, filters, and live streams.

The worker and the controller import this package.
"""

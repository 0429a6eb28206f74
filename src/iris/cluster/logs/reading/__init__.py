"""Reads the log of an attempt from disk: whole records, pages, tails, filters, and live streams. Imported by worker
and controller.
"""

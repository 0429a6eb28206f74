"""Reads a part of an attempt's log, forwards or backwards from any place, without reading the rest of the log. The
worker and the controller import this package for the call `FetchLogParts`, with which the page shows large logs.
"""

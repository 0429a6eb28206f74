"""Reads any part of the log of an attempt by its place, forwards or backwards, without reading the rest of the log. The
worker and the controller import this package for the call `FetchLogParts`, with which the page shows large logs.
"""

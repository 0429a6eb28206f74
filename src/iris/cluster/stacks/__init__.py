"""Merges call stacks and counts of samples in protobuf messages, with tables of frames. The package is pure. The
worker, the controller and the client import it.
"""

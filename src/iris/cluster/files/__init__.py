"""Reads and writes files in the directory of an attempt without leaving the directory, and packs the outputs of
attempts. The worker, the controller and the client import this package.
"""

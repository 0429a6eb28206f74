"""Turns jobs, tasks and machines into tables for users of the Python API, in a terminal or a notebook. The handles and
the clients import this package. The texts are made from messages that the caller has received.
"""

"""Turns jobs, tasks and machines into tables for users of the Python API, in a terminal or a notebook. The handles, the
clients and the command line import this package. The texts are made from messages that the caller has received.
"""

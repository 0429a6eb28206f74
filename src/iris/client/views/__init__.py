"""Turns jobs, tasks and machines into tables for people who use Iris from Python, also in a notebook.

The handles and the clients import this package. The texts are made from messages that the caller has received.
"""

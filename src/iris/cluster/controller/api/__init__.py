"""Implements the calls that the controller serves, and makes their response messages. Only the controller and
`iris.server` import this package.
"""

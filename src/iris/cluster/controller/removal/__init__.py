"""Removes ended jobs, and drops the contents of ended jobs when a user has stored too much. Only the controller and
`iris.server` import this package.
"""

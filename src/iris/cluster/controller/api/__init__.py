"""The calls that the controller serves, and the messages of its answers. Only the controller and `iris.server` import
this package.
"""

"""The files of tasks: copies to and from running attempts, and the stored outputs of ended attempts. The controller,
its service and `iris.server` import this package.
"""

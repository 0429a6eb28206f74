"""The files of tasks: copies to and from running attempts, and the stored outputs of ended attempts. The controller and
its service import this package.
"""

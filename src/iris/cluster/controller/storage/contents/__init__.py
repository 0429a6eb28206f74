"""Stores the contents of jobs (entry points, workspaces and results), and counts their bytes for each user. The
controller's storage and the removal of jobs import this package.
"""

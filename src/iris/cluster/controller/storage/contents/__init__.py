"""Stores the contents of jobs (entry points, workspaces and results), and counts their bytes for each user. The
controller's storage, the removal of jobs, the reports of workers and the calls that return results import this package.
"""

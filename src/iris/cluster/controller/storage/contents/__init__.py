"""Stores the contents of jobs (entry points, workspaces, inputs and results), and counts their bytes for each user. The
controller, its storage, the removal of jobs, the reports of workers and the calls that return results import this
package.
"""

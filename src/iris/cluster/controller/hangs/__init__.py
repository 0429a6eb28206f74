"""Recognises jobs that seem to hang. The controller, its records and messages of jobs, the reports of workers and the
submission of jobs import this package.
"""

"""The controller of a cluster. It accepts jobs, schedules their tasks on workers, and stores the state of the jobs and
workers.
"""

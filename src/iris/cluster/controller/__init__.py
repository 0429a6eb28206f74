"""The controller of a cluster. The controller accepts jobs, schedules their tasks on workers, stores the state of the
jobs and workers, and removes old jobs.
"""

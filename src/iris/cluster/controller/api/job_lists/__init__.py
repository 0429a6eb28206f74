"""Lists of jobs: pages of jobs from the memory and the database, and pages that follow all changes (`WatchJobs`).

Only `iris.cluster.controller` imports this package.
"""

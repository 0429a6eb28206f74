"""The operations that watch a job, the list of jobs, or the events of a cluster, and open a broken stream again. The
clients and the command line import this package.
"""

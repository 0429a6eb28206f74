"""What an attempt may use and what it does use: cgroups, process tables, and samples of memory and CPU. Imported by
the worker.
"""

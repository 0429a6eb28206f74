"""Stores the controller's state on the disk. The package has the state directory, the database, and the batches of
changes to write. Only the controller and `iris.server` import this package.
"""

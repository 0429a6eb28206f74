"""The controller's state on the disk: the state directory, the database, and the batches of changes that are written to
it. Only the controller and `iris.server` import this package.
"""

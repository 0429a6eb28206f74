"""What the controller keeps on disk: the state directory, the database, and the batches that are written to it.
Imported by the controller.
"""

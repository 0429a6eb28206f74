"""The sizes of the parts in which files are copied. Clients and servers must agree on these sizes."""

# The largest number of bytes that one call copies. The number is small, so that copies need little memory in the
# client, the controller and the worker.
PART_BYTES = 1 << 20
# The number of bytes of a file after which the client compares the hash of the copied bytes with the hash on the
# worker. A hash of more bytes would take so long that a proxy could cut the call.
HASH_BYTES = 64 << 20

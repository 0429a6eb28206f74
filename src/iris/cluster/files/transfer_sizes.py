"""The sizes of the parts in which files are copied. Clients and servers must agree on these sizes."""

# One call copies at most this many bytes, so that copies need little memory everywhere.
PART_BYTES = 1 << 20
# After copying this many bytes of a file, the client compares their hash with the hash on the worker. A hash of more
# bytes would take so long that a proxy could cut the call.
HASH_BYTES = 64 << 20

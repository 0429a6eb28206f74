"""The calls between the parts: generated messages and stubs, and what every call needs.

`cluster_pb2` and `cluster_connect` are generated (`poe generate`) from proto/iris/rpc/cluster.proto.
"""

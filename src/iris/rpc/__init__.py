"""Remote calls between the parts of Iris: generated messages and stubs, and the code that every call uses.
`cluster_pb2` and `cluster_connect` are generated (`poe generate`) from proto/iris/rpc/cluster.proto.
"""

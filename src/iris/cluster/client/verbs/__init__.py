"""The calls of `RemoteClusterClient`, grouped by subject, and the connection that they share. Only
`iris.cluster.client.remote_client` imports the classes of this package.
"""

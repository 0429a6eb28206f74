"""The calls of `RemoteClusterClient`, grouped by subject, and the connection that they share. Only
`iris.cluster.client.remote_client` imports the classes with the calls. Tunnels of the client and of the command line
also use the connection.
"""

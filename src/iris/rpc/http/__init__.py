"""HTTP on both sides: the transports of clients, the server, TLS, and errors of connections in words. Nothing here
knows what a call means.
"""

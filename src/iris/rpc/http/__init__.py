"""HTTP between clients and servers: `client` has the transports of clients, `server` has the protocols of servers. The
modules here serve both sides: TLS, connections, and descriptions of connection errors. No module depends on the meaning
of calls.
"""

"""HTTP for clients and servers: transports, the server, TLS, and descriptions of connection errors. The modules do not
depend on the meaning of calls.
"""

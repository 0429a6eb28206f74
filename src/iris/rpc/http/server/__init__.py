"""The server's side of HTTP: the ASGI server that controllers and workers listen with, and its connection limits. Only
servers import this package.
"""

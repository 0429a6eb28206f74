"""The server's side of HTTP: the ASGI server of controllers and workers, and its connection limits. Only
servers import this package.
"""

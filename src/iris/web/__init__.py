"""Serves the page of a cluster: static files, which call the same RPCs as every client. The sources of the page are in
the folder `web/` of the repository. Only `iris.server` imports this package.
"""

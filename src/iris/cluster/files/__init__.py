"""Files below a directory that must not be left, and the files that attempts leave as outputs. The worker, the
controller and the client import this package. It imports only the wire and the layers below the wire.
"""

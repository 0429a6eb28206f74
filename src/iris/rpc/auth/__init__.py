"""Authentication and authorisation of callers: tokens, permissions, and the credentials that clients send. Clients and
servers import this package.
"""

"""Who calls, and whether the caller may: tokens, permissions, and the credentials that clients show. Imported by
clients and servers.
"""

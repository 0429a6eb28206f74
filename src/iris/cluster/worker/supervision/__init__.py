"""Ends attempts when their worker dies or loses its lease, starts workers quickly, and recognises running workers. The
worker imports this package. The engines import the modules that start and recognise workers.
"""

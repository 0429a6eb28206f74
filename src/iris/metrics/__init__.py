"""The figures of a server for Prometheus: definitions, tallies, and the text that Prometheus reads. All parts of a
server may import this package, which knows nothing about jobs.
"""

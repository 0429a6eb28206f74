"""Measures a server for Prometheus: the definitions of metrics, their values, and the text that Prometheus reads. All
parts of a server may import this package. The package does not depend on jobs.
"""

"""What a server offers to monitoring systems: metrics for Prometheus, and probes for orchestrators. Controller and
worker import this package.
"""

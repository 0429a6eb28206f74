"""Makes spans of OpenTelemetry from the stored times of jobs and attempts, and sends them to a collector. Only the
controller and its server import this package.
"""

"""Carries the trace context of a program along with a job, in the format of W3C Trace Context. This package needs no
package of OpenTelemetry. Clients, controllers and workers import it.
"""

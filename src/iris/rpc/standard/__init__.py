"""The standard services of gRPC that each server of Iris offers beside its own calls: health and reflection. Controller
and worker import this package.
"""

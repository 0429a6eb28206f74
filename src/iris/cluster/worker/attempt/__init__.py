"""Runs the attempts of tasks. The package has the record, preparation, environment, ports, run and outcome of an
attempt. Only the worker imports this package.
"""

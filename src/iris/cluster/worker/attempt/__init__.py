"""One attempt of a task: its record, preparation, environment, ports, run and outcome. Only the worker imports this
package.
"""

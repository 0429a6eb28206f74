"""Shows the machines, the workers, the queue and the recent events of a cluster, once or as they change. The controller
and its calls import this package.
"""

"""The figures of the controller for Prometheus: what each metric means, the tally of changed jobs, and the collection
of the present values. Only the controller's loop, its saver and `iris.server` import this package.
"""

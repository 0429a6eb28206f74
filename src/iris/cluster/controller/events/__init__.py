"""Records what happens in a cluster as numbered events, stores the newest events, and streams events to clients and
webhooks. The controller, its calls and `iris.server` import this package.
"""

"""The client's side of HTTP: transports, proxies, and the handle that closes a stream. The stubs of clients, workers
and the controller send their calls through these modules.
"""

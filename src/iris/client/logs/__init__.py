"""How a client reads logs: options, streams, reconnection, and lines as objects. Imported by `iris.client` only."""

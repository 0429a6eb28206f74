"""The connection from a worker to its controller: reports, log uploads, and trust. Imported by the worker."""

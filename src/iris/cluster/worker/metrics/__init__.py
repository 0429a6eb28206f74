"""The metrics of a worker for Prometheus. Only the worker's wiring imports this package."""

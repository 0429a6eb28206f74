"""What ends attempts when a worker dies or loses its lease, and what starts workers quickly. Imported by the worker
and the engines.
"""

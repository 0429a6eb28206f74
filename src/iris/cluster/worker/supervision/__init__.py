"""What ends attempts when their worker dies or loses its lease, and how workers are started quickly and recognised.

The worker imports this package. Engines import what starts and recognises workers.
"""

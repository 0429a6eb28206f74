"""Maps a callable over many inputs with one job. Only the sync client uses `map_job.py` and `methods.py`. Both clients
use the other modules.
"""

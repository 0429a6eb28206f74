"""Maps a callable over many inputs with one job. Both clients use these modules; only `map_job.py` and `methods.py` are
for the sync client alone.
"""

"""Maps a callable over many inputs with one job. The classes in `map_job.py` and `methods.py` belong to the sync
client. The async client has its own classes, and uses the functions and the other modules of this package.
"""

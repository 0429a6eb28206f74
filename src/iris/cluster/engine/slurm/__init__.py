"""The engine for an existing Slurm cluster, with one batch job for each gang. `engine.py` queries Slurm; `batch_job.py`
and `slot_process.py` run inside the batch job.
"""

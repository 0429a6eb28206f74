"""The engine for an existing Slurm cluster, with one batch job for each gang. `engine.py` queries Slurm.
`gang_process.py` and `slot_process.py` run inside the batch job.
"""

"""An existing Slurm cluster as an engine: one batch job for each gang. `engine.py` asks Slurm; `batch_job.py` and
`slot_process.py` run inside the batch job.
"""

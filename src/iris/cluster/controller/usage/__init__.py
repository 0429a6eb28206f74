"""Keeps what tasks and workers have used over time: CPU, memory and GPUs. The controller imports this package.
`series.py` and `totals.py` are pure. `history.py` owns the series in memory and writes them to the database.
"""

"""The machine under Iris: clocks, processes, and files that only their owner may change. Every package may import it,
and it knows nothing of jobs.
"""

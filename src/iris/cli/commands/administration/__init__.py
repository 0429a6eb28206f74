"""The commands about clusters: start, end and inspect clusters, and manage tokens. Only `program.py` imports these
modules."""

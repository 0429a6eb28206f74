"""The commands that submit jobs. Only `program.py` imports these modules."""

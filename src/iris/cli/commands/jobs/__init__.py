"""The commands that list, show, follow, end and remove existing jobs. Only `program.py` imports these modules."""

"""The commands about existing jobs: list, show, follow and end jobs. Only `program.py` imports these modules."""

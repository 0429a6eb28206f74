"""Writes the reference pages of `docs/reference` from the code: `python -m docsite.reference`."""

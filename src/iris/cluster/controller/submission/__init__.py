"""Accepts or refuses new jobs. submit.py tells the story: validate, claim a name, check quota and headroom, save.

Only the controller imports this package.
"""

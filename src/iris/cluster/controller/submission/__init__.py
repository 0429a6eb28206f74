"""Accepts or refuses new jobs. The module submit.py has the whole sequence: validate, claim a name, check quota and
headroom, save.

Only the controller imports this package.
"""

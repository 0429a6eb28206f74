"""Accepts or refuses new jobs. The module submit.py contains the sequence of steps: validate, claim a name, check quota
and headroom, save. Only the controller imports this package.
"""

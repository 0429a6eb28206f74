"""Builds the web site of the documentation without a network: `python -m docsite.site`."""

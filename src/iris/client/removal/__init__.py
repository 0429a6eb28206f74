"""Removes ended jobs. Only `iris.client` and its async counterpart import this package."""

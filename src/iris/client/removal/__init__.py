"""Removes ended jobs. Only `IrisClient` imports this package."""

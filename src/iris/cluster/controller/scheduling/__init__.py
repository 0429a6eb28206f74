"""Decides which gangs start next, and asks the engine for their allocations. Imported by the controller."""

"""Decides which gang starts next and asks the engine for its slots. Imported by the controller."""

"""The commands about contexts: `iris login`, `iris logout`, and `iris context`. `program.py` imports this package."""

"""The commands that show what jobs use: `iris top` now, and `iris usage` over time. Only `program.py` imports these
modules.
"""

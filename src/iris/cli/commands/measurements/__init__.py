"""The commands that show what jobs use: `iris top` now, and `iris usage` over time. The command line imports them."""

"""Which cluster a command means, and how `iris up` starts one. Imported by the commands."""

"""The commands of `iris`, one file for each. `program.py` imports the file of a command when the command is used."""

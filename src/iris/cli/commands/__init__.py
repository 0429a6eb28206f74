"""The commands of `iris`, one file each."""

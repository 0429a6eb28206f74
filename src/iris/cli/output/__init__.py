"""What `iris` prints, for people as text and for programs as JSON. Imported by the commands."""

"""What a log is, on every side of the wire: records, how far they were read, and which attempt is to be read next."""

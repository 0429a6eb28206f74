"""The registered workers, and the calls that start and stop attempts on them. Imported by the controller."""

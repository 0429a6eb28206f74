"""The project's benchmarks: `python -m benchmarks`. What each measures, and its last figures: README.md beside this."""

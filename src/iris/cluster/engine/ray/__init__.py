"""An existing Ray cluster as an engine: one placement group for each gang and one worker for each slot. `engine.py`
lists what each file does.
"""

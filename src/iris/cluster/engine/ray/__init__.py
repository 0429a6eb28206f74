"""The engine for an existing Ray cluster, with one placement group for each gang and one worker for each slot.
`engine.py` lists the purpose of each file.
"""

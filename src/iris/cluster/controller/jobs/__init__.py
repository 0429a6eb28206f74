"""Jobs and tasks as pure state machines: an event goes in, a new state and instructions come out. Imports no clock,
socket, or database.
"""

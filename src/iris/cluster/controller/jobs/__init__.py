"""Jobs and tasks as pure state machines: an event goes in, a new state and instructions come out. All other parts of
the controller import this package. The package uses no clock, socket or database.
"""

"""Call stacks on the wire: tables of frames, and sums of stacks. Worker, controller and client import this package. It
has only pure code.
"""

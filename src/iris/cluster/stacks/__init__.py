"""Call stacks in messages: tables of frames, and the number of samples with each stack. Worker, controller and client
import this package. It has only pure code.
"""

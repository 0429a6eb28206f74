"""Access to the machine under Iris: clocks, processes, and files that only their owner may change. Every package may
import this package. It does not depend on the rest of Iris.
"""

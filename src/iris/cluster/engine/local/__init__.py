"""The engine for this machine: standing worker processes, and a ledger of the slots that gangs hold. The server imports
the engine.
"""

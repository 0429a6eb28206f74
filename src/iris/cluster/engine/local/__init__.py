"""This machine as an engine: standing worker processes and a ledger of the slots that gangs hold. Imported by the
server.
"""

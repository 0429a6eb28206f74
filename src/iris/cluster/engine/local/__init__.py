"""The engine for this machine. The engine has standing worker processes, and a ledger of the slots that gangs hold.
Only the server imports this package.
"""

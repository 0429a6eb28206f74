"""Logs at the controller: receives them from workers, keeps them, deletes them, and relays them to readers. Imported
by the controller.
"""

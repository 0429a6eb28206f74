"""Decides whether a submission is accepted: validation, quotas, and headroom. Imported by the controller."""

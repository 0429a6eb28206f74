"""Fixtures of the contract of logs, for modules that define a fixture `reach`."""

from __future__ import annotations

from contracts.log_following import follow, run  # noqa: F401

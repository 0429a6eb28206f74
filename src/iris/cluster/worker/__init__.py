"""Runs: the daemon that executes attempts on one machine and serves their logs."""

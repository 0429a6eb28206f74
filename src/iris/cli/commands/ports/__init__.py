"""The commands about ports of tasks, and about endpoints."""

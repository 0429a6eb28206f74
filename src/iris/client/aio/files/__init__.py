"""Copies files from and to tasks, on an asyncio loop. Only the async client imports this package."""

"""Maps a callable over many inputs, for asyncio. Only the async client imports this package."""

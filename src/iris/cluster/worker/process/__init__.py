"""The processes of an attempt: how they are started, fed, captured and collected. Only the worker imports this package."""

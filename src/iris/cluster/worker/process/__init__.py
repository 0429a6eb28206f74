"""The processes of an attempt: how they are started, fed, captured and collected. Imported by the worker only."""

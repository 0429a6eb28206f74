"""The name of the database of folded logs. This separate module lets other modules read the name without loading
SQLite."""

DATABASE_NAME = "folded.db"

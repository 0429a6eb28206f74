"""The name of the database of folded logs. The name is in a module of its own, which loads no SQLite."""

DATABASE_NAME = "folded.db"

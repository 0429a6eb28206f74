"""Job files: TOML files with the options of `iris run`. Only `iris run` imports this package."""

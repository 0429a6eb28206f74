"""Tools that make the documentation: the reference pages from the code, and the web site from the pages of `docs/`."""

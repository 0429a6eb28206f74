"""The entries of a log: the lines, partial lines and gaps that readers make from records. Clients use this package, and
so does the controller for readers that speak plain HTTP.
"""

"""The entries of a log: the lines, partial lines and gaps that readers make from records. Clients use this package. The
controller also uses it, for readers that speak plain HTTP.
"""

"""Creates, lists and revokes the tokens of a cluster, and keeps the web sessions of browsers. Only the controller and
`iris.server` import this package.
"""

"""The daemon that runs attempts on one machine and serves their logs.

The engines start workers as processes. The controller calls workers through the wire and never imports this package.
"""

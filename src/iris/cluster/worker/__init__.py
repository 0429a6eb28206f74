"""The daemon that runs attempts on one machine and serves their logs. The engines start workers as processes. The
controller calls workers over the network and never imports this package.
"""

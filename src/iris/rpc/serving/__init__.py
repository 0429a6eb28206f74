"""The code of a server around each call: it decodes requests strictly, lets heavy calls wait for turns, and limits open
streams. The services of controller and worker import this package.
"""

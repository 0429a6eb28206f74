"""What a server does around each call: decode requests strictly, take turns, and bound the streams that are open.
Imported by the services of controller and worker.
"""

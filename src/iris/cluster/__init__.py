"""The parts of a cluster: client, controller, engines, worker, and logs. All parts use the modules that lie directly in
this folder.
"""

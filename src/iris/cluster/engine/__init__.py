"""The engines that give the controller machines to run gangs on: this machine, Ray, and Slurm. The controller and the
server import the interface in `base.py`. Only the server chooses an engine.
"""

"""The engines that give the controller machines to run gangs on: this machine, Ray, and Slurm.

`base.py` is the interface. The controller and the server import it; only the server chooses an engine.
"""

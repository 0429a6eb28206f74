"""The parts of a cluster: client, controller, engines, worker, and logs. All parts share the modules of this folder."""

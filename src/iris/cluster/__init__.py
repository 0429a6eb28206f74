"""The parts of a cluster: client, controller, engines and worker. The module `types` is shared by all parts."""

"""How a cluster is made: its client, controller, engines and worker; `types` is what all of them share."""

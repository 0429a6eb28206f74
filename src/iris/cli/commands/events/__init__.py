"""The commands about the events of a cluster and about webhooks."""

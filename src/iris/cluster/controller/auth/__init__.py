"""Creates, lists, and revokes the tokens of a cluster. Only the controller imports this package."""

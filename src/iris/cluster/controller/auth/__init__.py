"""Creates, lists, and revokes the tokens of a cluster. Imported by the controller."""

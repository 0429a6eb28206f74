"""How a cluster is reached: one that runs somewhere, or one that is started here."""

"""Places: what gives the controller somewhere to run."""

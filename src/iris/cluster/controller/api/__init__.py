"""The services of the controller and the messages they answer with. Imported by the controller and the server only."""

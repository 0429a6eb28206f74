"""One attempt of a task: its directory, environment, workspace, ports, and processes. Imported by the worker."""

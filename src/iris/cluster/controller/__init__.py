"""The controller of a cluster: accepts jobs, schedules their tasks on workers, and stores the state of both."""

"""Recognises jobs that seem to hang. The records of jobs and the reports of workers import this package."""

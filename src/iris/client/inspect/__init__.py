"""Reads and shows what running tasks do: call stacks, CPU profiles and memory profiles, as data classes, text and flame
graphs. `IrisClient`, `AsyncIrisClient` and the command line import this package.
"""

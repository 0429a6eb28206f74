"""The call stacks of tasks: data classes, merging of identical stacks, and their text. `IrisClient`, `AsyncIrisClient`
and the command line import this package.
"""

"""Copies files from and to tasks, and reads the outputs of jobs. Both clients and the command line import this
package.
"""

"""Submits earlier jobs again, and jobs whose name may be taken. Both clients and the command line import this
package.
"""

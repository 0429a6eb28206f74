"""Manages the registered workers, and calls workers to start and stop attempts. Only the controller imports this
package.
"""

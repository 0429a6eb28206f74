"""Decides which gangs start next, and requests their allocations from the engine. Only the controller imports this
package.
"""

"""The checks of `iris doctor`: what is measured, and what follows from it. Only the command `iris doctor` imports this
package.
"""

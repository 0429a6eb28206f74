"""The calls that the controller serves, and the response messages of these calls. Only the controller and `iris.server`
import this package.
"""

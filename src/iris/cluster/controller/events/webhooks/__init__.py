"""Sends events to the URLs that the operator of the cluster has configured. Only the controller and `iris.server`
import this package.
"""

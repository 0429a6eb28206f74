"""Finds, names and words the reasons why gangs wait. The scheduler, the jobs and the controller's answers import this
package.
"""

"""Follows the logs of tasks: the second stage of a stream, after the existing lines. The package has the driver with
threads, and the part that the sync and the async client share. Only the streams of logs of both clients import this
package.
"""

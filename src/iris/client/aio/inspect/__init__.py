"""The methods of `AsyncIrisClient` and its handles that look inside of running tasks. `iris.client.aio` imports this
package.
"""

"""The log route `GET /v1/jobs/JOB/logs`, for readers without a Connect client: curl, scripts, and pages in a browser.

The route reads logs inside the controller, and writes them as text, bytes, JSON or server-sent events. Only
`iris.server` imports this package.
"""

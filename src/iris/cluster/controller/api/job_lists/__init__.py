"""Lists of jobs. A client gets a page of the list once (`ListJobs`), or a page and then each change of the page
(`WatchJobs`). Only `iris.cluster.controller` imports this package.
"""

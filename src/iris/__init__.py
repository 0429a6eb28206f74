"""Iris runs jobs of many tasks and shows what each task does. Users start with `from iris.client import IrisClient`.

Ten stops of a job, in the order in which it passes them:

1. A user calls `iris.client.client`, or types a command of `iris.cli`.
2. The client sends a request: `iris.cluster.client.remote_client`.
3. The controller validates the request: `iris.cluster.controller.submission`.
4. The controller's loop changes its state, and saves each change: `iris.cluster.controller.controller`, `storage`.
5. A pure state machine decides what happens next: `iris.cluster.controller.jobs`.
6. The scheduler decides which gang starts next: `iris.cluster.controller.scheduling`.
7. An engine allocates slots: `iris.cluster.engine`.
8. A worker starts each attempt as a process: `iris.cluster.worker`.
9. The output of the process becomes a log: `iris.cluster.logs`.
10. The log is streamed to a reader and turned into lines: `iris.client.logs`.
"""

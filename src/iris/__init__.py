"""Iris runs a job of many tasks that belong together, and shows what each of them does.

The stops of a job, one file each:

1. A user calls: `iris.client.client` (IrisClient), `iris.client.job` (Job, Task), or `iris.cli`.
2. The client asks: `iris.cluster.client.remote_client`, over `iris.rpc.transport`.
3. The wire's door: `iris.cluster.controller.service`; the wire itself is proto/iris/rpc/cluster.proto.
4. The controller acts: `iris.cluster.controller.controller`, and remembers in `iris.cluster.controller.store`.
5. It decides, purely: `iris.cluster.controller.job`, `iris.cluster.controller.task`.
6. Whose turn it is: `iris.cluster.controller.queue`; `iris.cluster.controller.scheduler` asks for their room.
7. An engine places: `iris.cluster.engine.local`, behind the seam `iris.cluster.engine.base`.
8. A worker runs: `iris.cluster.worker.worker`, one process group an attempt: `iris.cluster.worker.process`.
9. A log fills: `iris.cluster.worker.log_store`, and `iris.cluster.logs.records` for what a log is.
10. Lines travel home: `iris.cluster.worker.log_stream`, and back to the reader, `iris.client.streams`.
"""

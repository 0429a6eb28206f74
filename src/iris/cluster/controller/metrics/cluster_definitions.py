"""Defines the metrics that describe the cluster as a whole, as the controller sees it."""

from __future__ import annotations

from iris.metrics.definitions import counter, gauge

ENGINE = gauge("iris_engine_info", "Always 1. The label is the engine: local, ray or slurm.", "engine")
JOBS = gauge("iris_jobs", "Unfinished jobs, by state.", "state")
STORED_JOBS = gauge("iris_stored_ended_jobs", "Ended jobs that the controller still stores.")
TASKS = gauge("iris_tasks", "Tasks of unfinished jobs, by state.", "state")
QUEUED_GANGS = gauge("iris_queued_gangs", "Gangs that wait for an allocation.")
QUEUED_TASKS = gauge("iris_queued_tasks", "Tasks of the gangs that wait for an allocation.")
OLDEST_GANG = gauge("iris_queue_oldest_age_seconds", "How long the oldest waiting gang has waited. 0 if no gang waits.")
ENGINE_UP = gauge(
    "iris_engine_reachable",
    "1 if the engine answers, and 0 if it does not. While it does not, the metrics of machines and of the queue are"
    " missing.",
)
MACHINES = gauge(
    "iris_machines",
    "Machines of the engine, by state: alive, avoided (it runs, but gets no new tasks), or dead.",
    "state",
)
CPU_CAPACITY = gauge("iris_cpu_capacity_cores", "CPU cores of all machines that are not dead.")
CPU_ALLOCATED = gauge("iris_cpu_allocated_cores", "CPU cores that slots of gangs occupy.")
CPU_USED = gauge("iris_cpu_used_cores", "CPU cores that tasks use, as their workers have measured last.")
MEMORY_CAPACITY = gauge("iris_memory_capacity_bytes", "Memory of all machines that are not dead.")
MEMORY_ALLOCATED = gauge("iris_memory_allocated_bytes", "Memory that slots of gangs occupy.")
MEMORY_USED = gauge("iris_memory_used_bytes", "Memory that tasks use, as their workers have measured last.")
GPU_CAPACITY = gauge("iris_gpus_capacity", "GPUs of all machines that are not dead.")
GPU_ALLOCATED = gauge("iris_gpus_allocated", "GPUs that slots of gangs occupy.")
GPUS_USED = gauge("iris_gpus_used", "GPUs that tasks use. A GPU in half use counts as 0.5.")
WORKERS = gauge(
    "iris_workers",
    "Registered workers, by state: healthy, unhealthy (it has missed heartbeats, and gets no new tasks), or dead.",
    "state",
)
WORKERS_SHORT = gauge(
    "iris_workers_with_shortage",
    "Workers that accept no new attempts, because they lack disk space or another resource.",
)
LEASES_LOST = counter("iris_leases_lost_total", "Workers that were declared lost, because their lease had expired.")
DISK_SIZE = gauge("iris_state_disk_size_bytes", "Size of the disk with the state directory.")
DISK_FREE = gauge("iris_state_disk_free_bytes", "Free space on the disk with the state directory.")
DATABASE_SIZE = gauge("iris_database_size_bytes", "Size of the controller's database.")
LOGS_RECEIVED = counter(
    "iris_log_received_bytes_total",
    "Bytes of log records that workers have uploaded. Workers of the engine local write into the state directory"
    " instead.",
)
LOGS_MISSING = counter(
    "iris_log_missing_bytes_total",
    "Bytes that are missing from uploaded logs, because a disk was full or a log was larger than its limit.",
)
LOGS_KEPT = gauge("iris_log_kept_bytes", "Bytes of the logs that this machine keeps. The figure is about a minute old.")
JOB_TASKS = gauge(
    "iris_job_tasks",
    "Tasks of one unfinished job, by state. Only with --metrics-per-job, for the jobs that were submitted last.",
    "job_id",
    "state",
)
JOB_CPU_USED = gauge(
    "iris_job_cpu_used_cores", "CPU cores that the tasks of one job use. Only with --metrics-per-job.", "job_id"
)
JOB_MEMORY_USED = gauge(
    "iris_job_memory_used_bytes", "Memory that the tasks of one job use. Only with --metrics-per-job.", "job_id"
)
JOBS_LEFT_OUT = gauge(
    "iris_jobs_without_metrics", "Unfinished jobs beyond the limit of --metrics-per-job. Only with --metrics-per-job."
)

CLUSTER_METRICS = (
    ENGINE,
    JOBS,
    STORED_JOBS,
    TASKS,
    QUEUED_GANGS,
    QUEUED_TASKS,
    OLDEST_GANG,
    ENGINE_UP,
    MACHINES,
    CPU_CAPACITY,
    CPU_ALLOCATED,
    CPU_USED,
    MEMORY_CAPACITY,
    MEMORY_ALLOCATED,
    MEMORY_USED,
    GPU_CAPACITY,
    GPU_ALLOCATED,
    GPUS_USED,
    WORKERS,
    WORKERS_SHORT,
    LEASES_LOST,
    DISK_SIZE,
    DISK_FREE,
    DATABASE_SIZE,
    LOGS_RECEIVED,
    LOGS_MISSING,
    LOGS_KEPT,
    JOB_TASKS,
    JOB_CPU_USED,
    JOB_MEMORY_USED,
    JOBS_LEFT_OUT,
)

"""Creates the engine that a configuration names, and ends workers left behind by a killed server. The modules of an
engine are loaded only when that engine is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from iris.cluster.engine.base import Engine
from iris.cluster.worker.supervision.prepared_worker import PreparedWorker
from iris.cluster.worker.worker_credentials import WorkerCredentials
from iris.config import LOCAL_ENGINE, ClusterConfig


def create_engine(
    config: ClusterConfig,
    state_dir: Path,
    *,
    advertise_host: str,
    standing: bool,
    worker_options: Sequence[str],
    credentials: Callable[[str], WorkerCredentials],
    queued_credentials: Callable[[str], WorkerCredentials],
    prepared: Sequence[PreparedWorker] = (),
) -> Engine:
    """Return the engine that a configuration names. The engine is not started yet.

    Args:
        config: The configuration of the cluster.
        state_dir: The state directory of the cluster.
        advertise_host: The host at which other machines reach this machine.
        standing: Whether workers on this machine continue to run if the server is killed.
        worker_options: The part of each worker's command line that comes from the configuration.
        credentials: A function that returns the credentials of the worker with a given id.
        queued_credentials: A function that returns the credentials of a worker that may start days later.
        prepared: Forked processes that become the first workers on this machine.
    """
    directory = engine_directory(config.engine, state_dir)
    if config.engine == "slurm":
        from iris.cluster.engine.slurm.engine import SlurmEngine

        return SlurmEngine(
            directory,
            slurm_options=config.slurm_options,
            lease_s=config.lease,
            worker_options=worker_options,
            credentials=queued_credentials,
        )
    if config.engine == "ray":
        from iris.cluster.engine.ray.engine import RayEngine

        return RayEngine(
            directory,
            ray_address=config.ray_address,
            lease_s=config.lease,
            worker_options=worker_options,
            credentials=credentials,
        )
    from iris.cluster.engine.local.engine import LocalEngine

    return LocalEngine(
        directory,
        workers=config.num_workers,
        labels=[dict(label.split("=", 1) for label in config.labels)],
        host=config.host,
        advertise_host=advertise_host,
        standing=standing,
        lease_s=config.lease,
        log_directory=state_dir / "logs",
        worker_options=worker_options,
        credentials=credentials,
        prepared=prepared,
    )


def engine_directory(engine: str, state_dir: Path) -> Path:
    """Return the path of an engine's directory, which is in the state directory."""
    return state_dir / ("workers" if engine == LOCAL_ENGINE else engine)


def has_left_workers(state_dir: Path) -> bool:
    """Return whether workers of a killed server still run on this machine."""
    from iris.cluster.engine.worker_process import find_standing

    return bool(find_standing(engine_directory(LOCAL_ENGINE, state_dir)))


def end_left_workers(config: ClusterConfig, state_dir: Path) -> int:
    """End the workers and attempts left behind by a killed server, and return the number of these workers. The caller
    must hold the lock of the state directory.

    Raises:
        UnavailableError: The engine cannot be reached.
    """
    directory = engine_directory(config.engine, state_dir)
    if not directory.is_dir():
        return 0
    if config.engine == "ray":
        from iris.cluster.engine.ray.engine import end_gangs as end_ray_gangs

        return asyncio.run(end_ray_gangs(directory, config.ray_address))
    if config.engine == "slurm":
        from iris.cluster.engine.slurm.engine import end_gangs as end_slurm_gangs

        return asyncio.run(end_slurm_gangs(directory))
    from iris.cluster.engine.worker_process import end_standing

    return asyncio.run(end_standing(directory))

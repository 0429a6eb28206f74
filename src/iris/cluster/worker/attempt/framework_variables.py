"""Defines the environment variables by which the tasks of a gang find each other. Torch and JAX expect different
variables.
"""

from __future__ import annotations

from iris.rpc import cluster_pb2


def rendezvous_variables(request: cluster_pb2.Worker.RunTaskRequest) -> dict[str, str]:
    """Return the environment variables of a task's rendezvous; an empty mapping if the job has no rendezvous.

    Some variables that torchrun sets are left out on purpose. TORCHELASTIC_RUN_ID makes torch expect a torchrun agent.
    Programs compute ranks from GROUP_RANK and NODE_RANK, the numbers of the machines. This computation gives wrong
    results, because Iris does not assign the ranks machine by machine.
    """
    if not request.rendezvous:
        return {}
    host = request.hosts[0]
    if request.rendezvous == cluster_pb2.RENDEZVOUS_TORCH:
        return {
            "RANK": str(request.task_index),
            "WORLD_SIZE": str(request.num_tasks),
            "LOCAL_RANK": str(request.local_rank),
            "LOCAL_WORLD_SIZE": str(request.local_world_size),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(request.master_port),
        }
    return {
        "JAX_COORDINATOR_ADDRESS": f"[{host}]:{request.master_port}"
        if ":" in host
        else f"{host}:{request.master_port}",
        "JAX_NUM_PROCESSES": str(request.num_tasks),
        "JAX_PROCESS_ID": str(request.task_index),
    }

"""How a task is told where its gang meets, in the words of its framework."""

from __future__ import annotations

from iris.rpc import cluster_pb2


def rendezvous_variables(request: cluster_pb2.Worker.RunTaskRequest) -> dict[str, str]:
    """The variables that `torch.distributed` or JAX meets by; none where no rendezvous was asked for.

    What torchrun sets besides belongs to torchrun: with TORCHELASTIC_RUN_ID, say, torch believes that an agent of it is
    there. GROUP_RANK and NODE_RANK count machines, on which ranks lie as there was room: programs that compute ranks
    from them would compute wrong ones.
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

"""The variables by which a gang meets, for each framework."""

from __future__ import annotations

from iris.cluster.worker.attempt.framework_variables import rendezvous_variables
from iris.rpc import cluster_pb2 as pb


def request(rendezvous: pb.Rendezvous, host: str) -> pb.Worker.RunTaskRequest:
    return pb.Worker.RunTaskRequest(
        task_index=3,
        num_tasks=8,
        hosts=[host, "elsewhere"],
        rendezvous=rendezvous,
        master_port=20001,
        local_rank=1,
        local_world_size=2,
    )


def test_torch_gets_its_rendezvous_variables() -> None:
    for host in ("10.0.0.7", "fd00::7"):
        assert rendezvous_variables(request(pb.RENDEZVOUS_TORCH, host)) == {
            "RANK": "3",
            "WORLD_SIZE": "8",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": host,
            "MASTER_PORT": "20001",
        }


def test_jax_gets_host_and_port_in_one_variable() -> None:
    for host, address in (("10.0.0.7", "10.0.0.7:20001"), ("fd00::7", "[fd00::7]:20001")):
        assert rendezvous_variables(request(pb.RENDEZVOUS_JAX, host)) == {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "8",
            "JAX_PROCESS_ID": "3",
        }


def test_task_of_a_job_without_a_rendezvous_gets_no_rendezvous_variables() -> None:
    assert rendezvous_variables(request(pb.RENDEZVOUS_UNSPECIFIED, "10.0.0.7")) == {}

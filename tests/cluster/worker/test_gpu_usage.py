"""The use of GPUs, as `nvidia-smi` prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from iris.cluster.worker.limits import gpu_usage
from iris.cluster.worker.limits.gpu_usage import GpuUse
from iris.rpc import cluster_pb2 as pb

PRINTED = """0, GPU-aaaa, 87, 40536
1, GPU-bbbb, 13, 2
2, GPU-cccc, [N/A], 5
"""


def test_output_of_nvidia_smi_gives_the_use_of_each_gpu_by_number_and_by_id() -> None:
    found = gpu_usage.parse(PRINTED)
    assert found == {
        "0": GpuUse(87, 40536),
        "GPU-aaaa": GpuUse(87, 40536),
        "1": GpuUse(13, 2),
        "GPU-bbbb": GpuUse(13, 2),
    }
    assert gpu_usage.total(found, ["0", "GPU-bbbb", "7"]) == GpuUse(100, 40538)
    assert gpu_usage.total(found, ["2"]) is None


@pytest.mark.parametrize("output", ["", "NVIDIA-SMI has failed", "0, GPU-a, 1", "a,b,c,d\n", "\x00"])
def test_unexpected_output_of_nvidia_smi_gives_no_gpu_usage(output: str) -> None:
    assert gpu_usage.parse(output) == {}


def test_measuring_gpu_usage_runs_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{PRINTED}END\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_usage.measure()["1"] == GpuUse(13, 2)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_usage.measure() == {}
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert gpu_usage.measure() == {}


@pytest.mark.parametrize(
    ("count", "local_rank", "visible", "expected"),
    [
        (2, 0, ["GPU-a", "GPU-b"], ["GPU-a", "GPU-b"]),
        (1, 0, ["MIG-a"], ["MIG-a"]),
        (1, 1, ["GPU-a", "GPU-b"], ["GPU-b"]),  # tasks of the gang on one machine see the GPUs of all these tasks
        (1, 1, ["GPU-b"], ["GPU-b"]),
        (1, 0, [], ["GPU-w"]),
        (0, 0, [], []),
    ],
)
def test_gpus_of_an_attempt_without_numbers_are_its_own_visible_devices(
    count: int, local_rank: int, visible: list[str], expected: list[str]
) -> None:
    device = pb.DeviceConfig(gpu=pb.GpuDevice(count=count)) if count else None
    resources = pb.ResourceSpecProto(device=device)
    request = pb.Worker.RunTaskRequest(resources=resources, local_rank=local_rank, visible_devices=visible)
    assert gpu_usage.gpus_of(request, "GPU-w") == expected

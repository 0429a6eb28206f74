"""Train a small model on CPU, data-parallel over the tasks of a job. `python` must have torch.

    iris run --replicas 4 --rendezvous torch --retries 3 -- python examples/train_torch.py --checkpoints DIR

Rank 0 writes a checkpoint every ten steps. If a rank fails, Iris restarts all ranks, and they continue from the last
checkpoint. Try it: kill one of the processes, or pass `--kill-rank 2 --kill-at-step 25`.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

SAVE_EVERY = 10
BATCH = 64


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint to a new file, then rename it, so that a killed process never leaves half a checkpoint."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def batch_of(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the data of one rank for one step. The two numbers seed it, so that a restarted run gets the same data."""
    numbers = torch.Generator().manual_seed(step * 10_000 + rank)
    x = torch.rand(BATCH, 2, generator=numbers) * 2 - 1
    return x, torch.sin(3 * x[:, :1]) * x[:, 1:]


def train(checkpoints: Path, steps: int, kill_rank: int, kill_at_step: int) -> None:
    """Train until the given step, from the last checkpoint if there is one."""
    dist.init_process_group("gloo")  # reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
    rank, size = dist.get_rank(), dist.get_world_size()
    attempt = int(os.environ.get("IRIS_ATTEMPT_ID", "0"))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    path = checkpoints / "last.pt"
    # All ranks read the same checkpoint, because rank 0 writes the next one only after steps in which all took part.
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    if rank == 0:
        begin = f"continues from step {first}" if first else "starts"
        print(f"attempt {attempt} {begin}: {size} ranks at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}")

    parallel = DistributedDataParallel(model)
    for step in range(first, steps):
        x, y = batch_of(rank, step)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(parallel(x), y)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]  # untyped in torch
        optimizer.step()
        if rank == kill_rank and step == kill_at_step and attempt == 0:
            print(f"rank {rank} dies after step {step}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            mean = loss.detach() / size
            dist.all_reduce(mean)
            if rank == 0:
                save(path, {"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
                print(f"step {step + 1}: loss {mean.item():.4f}, saved", flush=True)
    dist.barrier()  # all ranks end together: a rank that had succeeded could not be restarted with the others
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="a directory that all machines share")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kill-rank", type=int, default=-1, help="kill this rank, in the first attempt")
    parser.add_argument("--kill-at-step", type=int, default=25)
    arguments = parser.parse_args()
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    train(arguments.checkpoints, arguments.steps, arguments.kill_rank, arguments.kill_at_step)

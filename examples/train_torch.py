"""Trains a small model data-parallel, on CPU, over the tasks of a job. Run it as

iris run --replicas 4 --rendezvous torch --retries 3 -- python examples/train_torch.py --checkpoints DIR

Rank 0 writes a checkpoint every ten steps. When a rank fails, Iris starts all of them again, and they go on from the
last one: kill one, or let `--kill-rank 2 --kill-at-step 25` do it. `python` must have torch.
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
    """Writes a checkpoint beside the last one, then takes its place: whoever dies meanwhile leaves a whole one."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def batch_of(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's share of the data of a step: made from both numbers, so that a run that goes on sees what is next."""
    numbers = torch.Generator().manual_seed(step * 10_000 + rank)
    x = torch.rand(BATCH, 2, generator=numbers) * 2 - 1
    return x, torch.sin(3 * x[:, :1]) * x[:, 1:]


def train(checkpoints: Path, steps: int, kill_rank: int, kill_at_step: int) -> None:
    """Trains up to a number of steps, from the checkpoint that there is."""
    dist.init_process_group("gloo")  # reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
    rank, size = dist.get_rank(), dist.get_world_size()
    attempt = int(os.environ.get("IRIS_ATTEMPT_ID", "0"))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    path = checkpoints / "last.pt"
    # All read the same one: rank 0 writes the next only after all have taken part in the steps up to it.
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    if rank == 0:
        begin = f"goes on from step {first}" if first else "starts"
        print(f"attempt {attempt} {begin}: {size} ranks at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}")

    parallel = DistributedDataParallel(model)
    for step in range(first, steps):
        x, y = batch_of(rank, step)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(parallel(x), y)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]  # torch's
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
    dist.barrier()  # nobody has succeeded before all have: after that, none could be tried again without the others
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

"""Who computes: rank and size, sums over ranks, seeds and devices; plain when alone."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from attune.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one run. Alone: rank 0 of 1, and every method is free."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the element-wise sum of `values` over all ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum_number(self, value: float) -> float:
        """Return the sum of one number over all ranks."""
        if self.size == 1:
            return value
        return float(self.sum(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def open_world(device: str) -> World:
    """Return this process's place; under torchrun with several ranks, joins the process group first.

    Raises ConfigError when cuda is asked for and there is none.
    """
    chosen = resolve_device(device)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen == "cuda" else "gloo")
    if chosen == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local)
        return World(rank, size, torch.device("cuda", local))
    return World(rank, size, torch.device("cpu"))


def resolve_device(device: str) -> str:
    """Return cpu or cuda for auto, cpu or cuda."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: cuda was asked for, but torch sees no CUDA device here.\n"
            "Use --device cpu, or install a CUDA build of torch."
        )
    return device


def mix_seed(*parts: int | str) -> int:
    """Return a seed in 0..2^63-1 that depends on every part and on nothing else (the same on every machine)."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's random state for one step: dropout is a function of (seed, step, rank), so no state is saved."""
    torch.manual_seed(mix_seed("step", seed, step, rank))

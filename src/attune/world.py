"""Who computes: this process and its device, and the seeds of everything random."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, field

import torch

from attune.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one run: for now a single one, rank 0 of 1, on one device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def open_world(device: str) -> World:
    """Return where this process computes.

    Raises ConfigError when cuda is asked for and there is none, or when several processes were started together.
    """
    chosen = resolve_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("WORLD_SIZE is above 1, but attune trains in one process so far. Start it without torchrun.")
    # told once by torch's own thread for the backward pass, which then sets up what it misses
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA context")
    return World(device=torch.device(chosen))


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

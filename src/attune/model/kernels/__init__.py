"""Triton kernels, each beside a twin in plain torch that computes the same; which of the two runs is decided here."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from torch import Tensor


@cache
def has_triton() -> bool:
    """Whether Triton can be imported."""
    return find_spec("triton") is not None


def is_interpreted() -> bool:
    """Whether Triton was asked to interpret kernels on the processor (TRITON_INTERPRET=1), as tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def runs(tensor: Tensor) -> bool:
    """Whether kernels run on this tensor: on CUDA, or anywhere under the interpreter; else the twin does."""
    return has_triton() and (tensor.is_cuda or is_interpreted())

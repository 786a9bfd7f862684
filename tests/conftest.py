"""What all tests share: where the optional real data lies, and tiny real models."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and tiny models; tests that need it skip where it is absent."""
    named = os.environ.get("ATTUNE_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "models" / "stories260K").is_dir():
        pytest.skip("real data and models are not on this machine (set ATTUNE_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """A real 260 K-parameter Llama model."""
    return shared / "models" / "stories260K"


@pytest.fixture(scope="module", autouse=True)
def _set_aside() -> None:
    """Set aside what is there to stay, so that no search for garbage goes through torch and its friends again."""
    gc.collect()
    gc.freeze()

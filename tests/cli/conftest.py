"""Good rows and a model for the tests of the verbs; a file that needs others defines its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import write_model_folder, write_rows


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder."""
    return write_model_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty good rows."""
    return write_rows(tmp_path / "rows.jsonl", 40)

"""Every kernel under Triton's interpreter: the tests with "interpreted" in their names, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attune.model.kernels import is_interpreted

FOLDER = Path(__file__).parent
FILES = sorted(file for file in FOLDER.glob("test_*.py") if "def test_interpreted" in file.read_text(encoding="utf-8"))


@pytest.mark.skipif(is_interpreted(), reason="runs in this very process")
def test_kernels_do_what_their_twins_do() -> None:
    """The interpreter must be asked for before Triton is imported, so one child process runs all of them."""
    pytest.importorskip("triton")
    assert len(FILES) >= 8
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", *map(str, FILES)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert "skipped" not in ended.stdout
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed is not None
    assert int(passed[1]) >= len(FILES)

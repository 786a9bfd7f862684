"""Tests that run Triton kernels under its interpreter, which must be asked for before Triton is imported.

They are skipped here and run by tests/model/test_interpreter.py, all in one process of their own.
"""

from __future__ import annotations

import pytest

from attune.model.kernels import is_interpreted

interpreted = pytest.mark.skipif(not is_interpreted(), reason="run by tests/model/test_interpreter.py")
as_twin = pytest.mark.skipif(is_interpreted(), reason="kernels run in this process, not their twins")

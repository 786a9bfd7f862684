"""The JSON Schema that answers must meet, read from the user's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.errors import ConfigError


def open_answer_schema(path: str) -> Mapping[str, Any] | None:
    """Return the schema of a file; None for no file. Raises: ConfigError when it cannot be read or is no object."""
    if not path:
        return None
    try:
        source = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"data.answer_schema: {path} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"data.answer_schema: {path}:{error.lineno}:{error.colno} is not JSON: {error.msg}."
        ) from error
    if not isinstance(source, dict):
        raise ConfigError(f"data.answer_schema: {path} must hold a JSON object, found {type(source).__name__}.")
    return source

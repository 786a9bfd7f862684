"""The JSON Schema that answers must meet, read from the user's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.errors import ConfigError


def open_answer_schema(path: str) -> Mapping[str, Any] | None:
    """Return the schema that data.answer_schema names; None for no file. Raises: as read_schema."""
    return read_schema(path, "data.answer_schema") if path else None


def read_schema(path: str, setting: str) -> Mapping[str, Any]:
    """Return the schema of a file. Raises: ConfigError, naming the setting, when it cannot be read or is no object."""
    try:
        source = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{setting}: {path}:{error.lineno}:{error.colno} is not JSON: {error.msg}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{setting}: {path} is not UTF-8: {error.reason}.") from error
    if not isinstance(source, dict):
        raise ConfigError(f"{setting}: {path} must hold a JSON object, found {type(source).__name__}.")
    return source

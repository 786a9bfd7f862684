"""Whether a JSON value obeys a JSON Schema, and the first thing that it gets wrong in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from attune.errors import ConfigError


class Conformance:
    """A JSON Schema that values are held against; formats are annotations, and nothing is fetched from a network."""

    def __init__(self, schema: Mapping[str, Any], name: str = "schema") -> None:
        """Open a schema. Raises: ConfigError when it is not a valid one."""
        try:
            self._validator = jsonschema_rs.validator_for(dict(schema), validate_formats=False, retriever=_refuse_fetch)
        except (ValueError, TypeError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            first = (str(error).splitlines() or [""])[0][:200]
            raise ConfigError(f"{name} is not a JSON Schema that can be used: {first}") from error

    def fault(self, value: Any) -> str:
        """Return the first thing in a value that breaks the schema, with its field; empty where it obeys."""
        if self._validator.is_valid(value):
            return ""
        error = next(iter(self._validator.iter_errors(value)))
        where = ".".join(map(str, error.instance_path))
        return f"{where + ': ' if where else ''}{error.message}"[:110]


def _refuse_fetch(uri: str) -> Any:
    raise ValueError(f"it refers to {uri}, and attune fetches nothing; put it into $defs")

"""Rows of a data set on the Hugging Face Hub, or of a local folder laid out like one, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from attune.data.reading.line import BadRow, RawRow
from attune.data.reading.parquet import BATCH_ROWS, to_rows
from attune.errors import ConfigError, DataError

PREFIX = "hub:"
FORM = "hub:owner/name, hub:owner/name:split or hub:owner/name:configuration:split"


class HubName(NamedTuple):
    """A set on the Hub: its id, its configuration ("" for the only one) and its split."""

    id: str
    configuration: str
    split: str


def is_hub(spec: str) -> bool:
    """Return whether a source names a set on the Hub instead of a file."""
    return spec.startswith(PREFIX)


def hub_name(spec: str) -> HubName:
    """Return what `hub:owner/name[:configuration][:split]` names; the split is "train" where none is given.

    Raises: ConfigError for another form.
    """
    parts = spec.removeprefix(PREFIX).split(":")
    if len(parts) > 3 or not all(part.strip() == part and part for part in parts):
        raise ConfigError(f'"{spec}" names no set on the Hub: write {FORM}.')
    configuration = parts[1] if len(parts) == 3 else ""
    return HubName(parts[0], configuration, parts[-1] if len(parts) > 1 else "train")


def read_hub(spec: str, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a set on the Hub in order; it is fetched once and kept in the cache of `datasets`.

    Raises: ConfigError for a malformed name; DataError when the set cannot be had, or `datasets` is not installed.
    """
    name = hub_name(spec)
    try:
        import datasets
    except ImportError as error:
        text = f'{spec} is a set on the Hub: pip install "attune-sft[hub]", or download it and name its files.'
        raise DataError(text) from error
    try:
        rows = datasets.load_dataset(name.id, name.configuration or None, split=name.split)
    except Exception as error:  # of many kinds: not found, no network, unknown split or configuration, no data file
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines)[:300].rstrip(".") or type(error).__name__
        raise DataError(f"{spec} cannot be read: {reason}.\nForms: {FORM}.") from error
    if not len(rows):
        raise DataError(f"{spec} has 0 rows.")
    yield from to_rows(spec, map(_as_rows, rows.iter(BATCH_ROWS)), limit)


def _as_rows(batch: Mapping[str, list[Any]]) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a batch that is given column by column."""
    names = tuple(batch)
    return (dict(zip(names, cells, strict=True)) for cells in zip(*batch.values(), strict=True))

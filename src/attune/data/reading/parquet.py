"""Rows of a Parquet file, a batch at a time, as Python values that read the same as rows of JSONL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from attune.data.reading.line import BadRow, RawRow, too_large
from attune.errors import DataError
from attune.types import Place

BATCH_ROWS = 1000


def read_parquet(path: Path, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a Parquet file, with the places of `to_rows`.

    Raises: DataError when the file is broken, holds no rows, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        text = f'{path} is Parquet: pip install "attune-sft[parquet]", or save it as JSONL.'
        raise DataError(text) from error
    try:
        with parquet.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                raise DataError(f"{path} is a Parquet file of 0 rows.")
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f'{path}: column "{twice}" appears twice.')
            batches = (batch.to_pylist(maps_as_pydicts="strict") for batch in file.iter_batches(BATCH_ROWS))
            yield from to_rows(str(path), batches, limit)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is a Parquet file with text that is not UTF-8: {error.reason}.") from error
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(f"{path} is a broken Parquet file: {reason}") from error


def to_rows(name: str, batches: Iterable[Iterable[Mapping[str, Any]]], limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of column-wise batches: line = row number from 1, offset = bytes of the rows before as JSON.

    Columns give every object of a list the fields of all others, filled with null: {"role", "content"} gets
    "tool_calls": null because another row has some. Such fields are left out again; a null that was meant is lost
    with them, which no field that is read here tells from absence.
    """
    line, offset = 0, 0
    for batch in batches:
        for row in batch:
            line += 1
            place = Place(name, line, offset)
            value = {key: _without_nulls(cell) if type(cell) in _NESTED else cell for key, cell in row.items()}
            written = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
            offset += len(written)
            if len(written) > limit:
                yield too_large(place, len(written), limit)
            else:
                yield RawRow(place, value, b"", ("nul",) if b"\\u0000" in written else ())


_NESTED = (dict, list)


def _without_nulls(cell: Any) -> Any:
    """Return a value whose objects have no null fields; items of lists stay, or they would move."""
    if type(cell) is dict:
        return {key: _without_nulls(inner) for key, inner in cell.items() if inner is not None}
    if type(cell) is list:
        return [_without_nulls(inner) for inner in cell]
    return cell

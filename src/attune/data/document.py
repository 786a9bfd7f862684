"""Parts of the JSON document of a check: lengths, duplicates, leaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.prepare import Prepared
from attune.data.survey import Surveyed

BINS = 40
MARKS = 2  # of a row among its words: where it begins and where its answer does
MOST_CLUSTERS, MOST_LEAKS = 20, 200  # that the document names


def lengths_in_tokens(prepared: Prepared) -> dict[str, Any]:
    """Return the lengths of the training rows in tokens, the limit, and what each way with longer rows costs."""
    trained = [collection for collection in prepared.collections if collection.part == "train"]
    tokens = np.concatenate([np.array(collection.fates.tokens, dtype=np.int64) for collection in trained])
    tolls = [collection.toll for collection in trained]
    over = {"rows": sum(toll.rows for toll in tolls), "learned": sum(toll.learned for toll in tolls)}
    cut = {
        "rows_lost": sum(toll.without_answer for toll in tolls),
        "learned_lost": sum(toll.learned_past for toll in tolls),
    }
    policies = [
        {"policy": "drop", "rows_lost": over["rows"], "learned_lost": over["learned"]},
        {"policy": "cut", **cut},
        {"policy": "split", "rows_lost": 0, "learned_lost": 0},
    ]
    return {"unit": "tokens", **_histogram(tokens[tokens > 0]), "limit": prepared.max_length, "over": over} | {
        "policies": policies
    }


def lengths_in_words(surveyed: Surveyed) -> dict[str, Any]:
    """Return the lengths of the training rows in words; how many tokens that is only a tokenizer knows."""
    words = np.diff(surveyed.store.words().starts)[surveyed.parts == "train"] - MARKS
    return {"unit": "words", **_histogram(words), "limit": None, "over": None, "policies": []}


def _histogram(lengths: NDArray[np.int64]) -> dict[str, list[int]]:
    """Return whole-number edges, equally far apart, and counts of at most BINS bins."""
    if not len(lengths):
        return {"edges": [], "counts": []}
    low, high = int(lengths.min()), int(lengths.max()) + 1
    step = max(1, -(-(high - low) // BINS))
    edges = np.arange(low, high + step, step)
    counts, _ = np.histogram(lengths, bins=edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def duplicates_document(surveyed: Surveyed, texts: Mapping[int, str], *, most: int = MOST_CLUSTERS) -> dict[str, Any]:
    """Return the copies of training rows and the largest clusters, as JSON can hold them."""
    counts = {one.name: len(one.rows) for one in surveyed.found if one.name in ("duplicate", "near-duplicate")}
    clusters = [
        {
            "rows": len(rows),
            "places": [_place(surveyed, int(row)) for row in rows[:most]],
            "text": texts.get(int(rows[0]), ""),
        }
        for rows in surveyed.duplicates.clusters[:most]
    ]
    return {"exact": counts.get("duplicate", 0), "near": counts.get("near-duplicate", 0), "clusters": clusters}


def leaks_document(surveyed: Surveyed, texts: Mapping[int, str], *, most: int = MOST_LEAKS) -> list[dict[str, Any]]:
    """Return held-out rows with the training row that gives each away, as JSON can hold them."""
    return [
        {
            **_place(surveyed, leak.row),
            "train_file": surveyed.places[leak.train_row].file,
            "train_line": surveyed.places[leak.train_row].line,
            "kind": leak.kind,
            "overlap": round(float(leak.overlap), 3),
            "text": texts.get(leak.row, ""),
        }
        for leak in surveyed.leaks[:most]
    ]


def _place(surveyed: Surveyed, row: int) -> dict[str, Any]:
    place = surveyed.places[row]
    return {"file": place.file, "line": place.line}

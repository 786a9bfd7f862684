"""Two preparations compared in everything that they hold."""

from __future__ import annotations

from typing import Any

from attune.data.corpus import Corpus, Places
from attune.data.prepared import Prepared


def kept_of(prepared: Prepared) -> dict[str, Any]:
    """Return what training and its reports look at, as values that can be compared."""
    entries = prepared.entries
    return {
        "train": _corpus(prepared.train),
        "valid": _corpus(prepared.valid),
        "entries": [_places(entries.places), _array(entries.states), _array(entries.reasons), entries.words],
        "template": [prepared.template.name, prepared.template.source, prepared.template.compiles],
    } | {
        name: getattr(prepared, name)
        for name in [
            "ledger",
            "findings",
            "preview",
            "layouts",
            "valid_examples",
            "max_length",
            "max_length_reason",
            "augmented",
        ]
    }


def looked_at(prepared: Prepared) -> dict[str, Any]:
    """Return what the check and its pages look at besides, as values that can be compared."""
    surveyed = prepared.surveyed
    duplicates = surveyed.duplicates
    return {
        "found": surveyed.found,
        "places": _places(surveyed.places),
        "parts": surveyed.parts.tolist(),
        "duplicates": [_array(duplicates.exact_of), _array(duplicates.cluster_of)],
        "leaks": surveyed.leaks,
        "coverage": surveyed.coverage,
        "questions": surveyed.questions,
        "words": [*map(_array, surveyed.store.words())],
        "keys": [*map(_array, surveyed.store.keys())],
        "collections": [_collection(collection) for collection in prepared.collections],
    }


def _collection(collection: Any) -> dict[str, Any]:
    fates, intake, masker = collection.fates, collection.intake, collection.masker
    return {
        "fates": {name: getattr(fates, name) for name in vars(fates)},
        "toll": collection.toll,
        "lowest": sorted(collection.lowest, key=lambda entry: entry[:2]),
        "examples": collection.examples,
        "learned": collection.learned_in,
        "intake": [getattr(intake, name) for name in vars(intake) if name not in {"_known", "config"}],
        "masker": [masker.with_controls, masker.control_texts, masker.in_parts, masker.lossy, masker.rewritten],
    }


def _corpus(corpus: Corpus | None) -> Any:
    if corpus is None:
        return None
    arrays = (corpus.tokens, corpus.learned, corpus.offsets, corpus.weights, corpus.copies)
    return [*map(_array, arrays), _places(corpus.places), corpus.sources]


def _places(places: Places) -> Any:
    return [places.files, *map(_array, (places.numbers, places.lines, places.offsets))]


def _array(array: Any) -> Any:
    return None if array is None else (array.dtype, array.shape, array.tobytes())

"""Prepared rows as plain arrays and a JSON document, and back: all of them, to the bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.corpus import Corpus, Entries, Places
from attune.data.encoding.template import ChatTemplate
from attune.data.prepared import Look, Prepared
from attune.types import Example, Finding, Ledger, Message, Place

Arrays = Mapping[str, NDArray[Any]]


def pack(prepared: Prepared) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return rows as a document and arrays.

    Raises: TypeError or ValueError when a value in a held-out row is nothing that JSON can hold.
    """
    arrays: dict[str, NDArray[Any]] = {}
    entries = prepared.entries
    document = {
        "train": _pack_corpus(prepared.train, "train", arrays),
        "valid": _pack_corpus(prepared.valid, "valid", arrays) if prepared.valid is not None else None,
        "ledger": asdict(prepared.ledger),
        "entries": {"files": _pack_places(entries.places, "entries", arrays), "words": entries.words},
        "findings": [asdict(finding) for finding in prepared.findings],
        "preview": prepared.preview,
        "compiles": prepared.template.compiles,
        "layouts": prepared.layouts,
        "valid_examples": [asdict(example) for example in prepared.valid_examples],
        "max_length": [prepared.max_length, prepared.max_length_reason],
        "notes": prepared.notes,
        "augmented": prepared.augmented,
    }
    arrays |= {"entries.states": entries.states, "entries.reasons": entries.reasons}
    read: dict[str, Any] = json.loads(json.dumps(document))
    is_same = (
        tuple(map(_to_example, read["valid_examples"])) == prepared.valid_examples
        and tuple(map(_to_finding, read["findings"])) == prepared.findings
        and tuple(read["preview"]) == prepared.preview
    )
    if not is_same:
        raise ValueError("a row holds a value that JSON cannot give back")
    return document, arrays


def unpack(document: Mapping[str, Any], arrays: Arrays, template: ChatTemplate, *, look: Look) -> Prepared:
    """Return packed rows. `look`: how to read them all again, should somebody ask."""
    template.compiles = document["compiles"]
    entries = document["entries"]
    return Prepared(
        train=_to_corpus(document["train"], "train", arrays),
        valid=_to_corpus(document["valid"], "valid", arrays) if document["valid"] is not None else None,
        ledger=Ledger(**document["ledger"]),
        entries=Entries(
            _to_places(entries["files"], "entries", arrays),
            arrays["entries.states"],
            arrays["entries.reasons"],
            entries["words"],
        ),
        findings=tuple(map(_to_finding, document["findings"])),
        preview=tuple(document["preview"]),
        template=template,
        layouts=document["layouts"],
        valid_examples=tuple(map(_to_example, document["valid_examples"])),
        max_length=document["max_length"][0],
        max_length_reason=document["max_length"][1],
        look=look,
        notes=tuple(document["notes"]),
        augmented=tuple(document["augmented"]),
    )


def _pack_corpus(corpus: Corpus, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    number_of = {source: number for number, source in enumerate(dict.fromkeys(corpus.sources))}
    numbers = np.fromiter((number_of[source] for source in corpus.sources), np.int32, len(corpus.sources))
    arrays |= {
        f"{name}.tokens": corpus.tokens,
        f"{name}.learned": corpus.learned,
        f"{name}.offsets": corpus.offsets,
        f"{name}.sources": numbers,
    }
    if corpus.weights is not None:
        arrays[f"{name}.weights"] = corpus.weights
    if corpus.copies is not None:
        arrays[f"{name}.copies"] = corpus.copies
    return {"files": _pack_places(corpus.places, name, arrays), "sources": list(number_of)}


def _to_corpus(document: Mapping[str, Any], name: str, arrays: Arrays) -> Corpus:
    sources = document["sources"]
    return Corpus(
        arrays[f"{name}.tokens"],
        arrays[f"{name}.learned"],
        arrays[f"{name}.offsets"],
        _to_places(document["files"], name, arrays),
        tuple([sources[number] for number in arrays[f"{name}.sources"].tolist()]),
        arrays.get(f"{name}.weights"),
        arrays.get(f"{name}.copies"),
    )


def _pack_places(places: Places, name: str, arrays: dict[str, NDArray[Any]]) -> list[str]:
    """Add the arrays of places; return their files."""
    arrays |= {f"{name}.files": places.numbers, f"{name}.lines": places.lines, f"{name}.places": places.offsets}
    return list(places.files)


def _to_places(files: list[str], name: str, arrays: Arrays) -> Places:
    return Places(files, arrays[f"{name}.files"], arrays[f"{name}.lines"], arrays[f"{name}.places"])


def _to_finding(value: Mapping[str, Any]) -> Finding:
    return Finding(**{**value, "examples": tuple(value["examples"])})


def _to_example(value: Mapping[str, Any]) -> Example:
    messages = tuple(
        Message(**{**message, "tool_calls": tuple(message["tool_calls"])}) for message in value["messages"]
    )
    return Example(**{**value, "place": Place(**value["place"]), "messages": messages, "tools": tuple(value["tools"])})

"""Sample answers side by side: what was asked, what was wanted, and what each model said, field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attune.show.facts import Evaluation, number
from attune.show.words import LOSSES, SYSTEMS, metric_name, percent, place

_NOT_JSON = object()


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of one answer: its value as JSON (empty where the answer has none) and whether it is right."""

    text: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one answer in words: right, wrong, or a share."""

    name: str
    text: str
    mark: str  # right, wrong or part


@dataclass(frozen=True, slots=True)
class Answer:
    """What one system said."""

    system: str
    name: str
    text: str
    finished: bool
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row with all answers; `fields` is empty unless the reference is a JSON object."""

    place: str
    prompt: str
    reference: str
    answers: tuple[Answer, ...]
    fields: tuple[tuple[str, str, tuple[Cell, ...]], ...]  # name, wanted value, one cell per answer
    kinds: tuple[str, ...]  # what the filter knows: wrong, worse, better


def eval_samples(evaluation: Evaluation) -> list[Sample]:
    """Return the rows of an evaluation, in file order."""
    return [_sample(row, row.get("answers"), row.get("finished"), row.get("scores")) for row in evaluation.rows]


def _sample(row: Mapping[str, Any], answers: Any, finished: Any, scores: Any) -> Sample:
    """Return one row with its answers in the order base, prompted, tuned."""
    said = answers if isinstance(answers, Mapping) else {}
    ended = finished if isinstance(finished, Mapping) else {}
    scored = scores if isinstance(scores, Mapping) else {}
    order = [system for system in SYSTEMS if system in said] + [system for system in said if system not in SYSTEMS]
    reference = text_of(row.get("reference"))
    told = tuple(
        Answer(
            str(system),
            SYSTEMS.get(system, str(system)),
            text_of(said[system]),
            bool(ended.get(system, True)),
            _scores(scored.get(system)),
        )
        for system in order
    )
    fields = _fields(reference, [answer.text for answer in told])
    kinds = _kinds(scored.get("base"), scored.get("tuned"))
    return Sample(place(row), text_of(row.get("prompt")), reference, told, fields, kinds)


def fields_right(reference: str, answer: str) -> tuple[int, int]:
    """Return how many fields of a JSON object an answer has right, of how many; none where the reference is no object.

    Fields that only the answer has count, too: they are wrong.
    """
    cells = [cell for _, _, (cell,) in _fields(reference, [answer])]
    return sum(cell.is_right for cell in cells), len(cells)


def text_of(value: Any) -> str:
    """Return a text as it is and anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _scores(values: Any) -> tuple[Score, ...]:
    """Return the scores that say something about one row; losses do not."""
    if not isinstance(values, Mapping):
        return ()
    known = [
        (metric, share)
        for metric, value in values.items()
        if metric not in LOSSES and (share := number(value)) is not None
    ]
    return tuple(_score(metric, share) for metric, share in known)


def _score(metric: str, share: float) -> Score:
    mark = "right" if share >= 1 else "wrong" if share <= 0 else "part"
    return Score(metric_name(metric), percent(share) if mark == "part" else "yes" if mark == "right" else "no", mark)


def _kinds(base: Any, tuned: Any) -> tuple[str, ...]:
    """Return which filters show a row: some score of the tuned answer is below full, below or above the base's."""
    if not isinstance(tuned, Mapping):
        return ()
    pairs = [
        (number(base.get(key)) if isinstance(base, Mapping) else None, number(value))
        for key, value in tuned.items()
        if key not in LOSSES
    ]
    known = [(before, after) for before, after in pairs if after is not None]
    kinds = []
    if any(after < 1 for _, after in known):
        kinds.append("wrong")
    if any(before is not None and after < before for before, after in known):
        kinds.append("worse")
    if any(before is not None and after > before for before, after in known):
        kinds.append("better")
    return tuple(kinds)


def _fields(reference: str, answers: list[str]) -> tuple[tuple[str, str, tuple[Cell, ...]], ...]:
    """Compare JSON objects field by field; a field is right when its JSON value equals the reference's."""
    wanted = _object(reference)
    if not wanted:
        return ()
    given = [_object(answer) for answer in answers]
    names = list(wanted) + sorted({name for fields in given for name in fields} - set(wanted))
    return tuple(
        (name, _json(wanted.get(name, _NOT_JSON)), tuple(_cell(wanted, fields, name) for fields in given))
        for name in names
    )


def _cell(wanted: Mapping[str, Any], given: Mapping[str, Any], name: str) -> Cell:
    text = _json(given.get(name, _NOT_JSON))
    return Cell(text, bool(text) and text == _json(wanted.get(name, _NOT_JSON)))


def _object(text: str) -> Mapping[str, Any]:
    """Return the JSON object that `text` is; an empty one if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _json(value: Any) -> str:
    """Return a value as JSON with sorted keys, so that equal values have equal text; nothing for an absent one."""
    return "" if value is _NOT_JSON else json.dumps(value, ensure_ascii=False, sort_keys=True)

"""What an answer is worth beside its reference: scorers from 0 to 1, and which of them suit a set of references."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from statistics import median
from typing import Any

from attune.data.lint.conformance import Conformance

# When a metric is used, all thresholds in one place: shares are of the references.
JSON_SHARE = 0.8  # this many are JSON objects: json_valid, field_accuracy, and schema_valid if there is a schema
NUMBER_SHARE = 0.8  # this many end in a number (and are not JSON): numeric_match
MAX_LABELS = 200  # at most so many different answers (and not JSON): label_accuracy ...
MAX_LABEL_WORDS = 8  # ... none longer than this ...
ROWS_PER_LABEL = 2  # ... each seen so often on average
MIN_ROUGE_WORDS = 4  # the median reference has this many words (and they are neither JSON nor labels): rouge_l
# exact_match and stop_rate are always used

METRICS = (
    "exact_match",
    "label_accuracy",
    "numeric_match",
    "json_valid",
    "schema_valid",
    "field_accuracy",
    "rouge_l",
    "stop_rate",
)

_NUMBER = re.compile(
    r"(?:(?<![A-Za-z0-9_)\]])[-+\u2212])?"  # a sign, unless something to subtract from stands before it: "5-3"
    r"(?<![A-Za-z0-9_])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # not inside a word: "B2"; 1,234 is one number
    r"|(?<![A-Za-z0-9_.])\.\d+"
)
_AFTER_NUMBER = re.compile(r"[\s.%)*!]*$")  # what may follow a number that ends a text
_FINAL = "####"  # GSM8K writes the final number after it
_AROUND_LABEL = " \t\r\n.,;:!\"'`*"


class InvalidJsonError(ValueError):
    """A text that is not strict JSON."""


def read_json(text: str) -> Any:
    """Return a text as strict JSON: one value, no key twice in an object, no NaN or Infinity.

    Raises: InvalidJsonError.
    """
    try:
        return json.loads(text, object_pairs_hook=_object_of, parse_constant=_refuse_constant)
    except InvalidJsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError(str(error)) from error


def _object_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidJsonError("a key stands twice in an object")
    return found


def _refuse_constant(name: str) -> None:
    raise InvalidJsonError(f"{name} is not JSON")


def structure_of(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the JSON object or array that a text is; None for anything else, a bare number or word included."""
    try:
        value = read_json(text)
    except InvalidJsonError:
        return None
    return value if isinstance(value, (dict, list)) else None


def exact_match(answer: str, reference: str) -> float:
    """Return 1 when the answer is the reference, white space around them aside."""
    return float(answer.strip() == reference.strip())


def label_accuracy(answer: str, reference: str) -> float:
    """Return 1 when the answer is the label; case, quotes and punctuation around it aside."""
    return float(_label(answer) == _label(reference))


def _label(text: str) -> str:
    return " ".join(text.strip(_AROUND_LABEL).casefold().split())


def numeric_match(answer: str, reference: str) -> float | None:
    """Return 1 when the final numbers are equal as numbers (1,000 = 1000.0); None if the reference has none."""
    wanted = final_number(reference)
    return None if wanted is None else float(final_number(answer) == wanted)


def final_number(text: str) -> Decimal | None:
    """Return the number after the last `####` of a text (GSM8K), else its last number; None without one."""
    _, mark, tail = text.rpartition(_FINAL)
    found = _NUMBER.findall(tail if mark else text)
    if not found:
        return None
    return Decimal((found[0] if mark else found[-1]).replace(",", "").replace("\u2212", "-"))


def json_valid(answer: str, reference: str) -> float:  # noqa: ARG001 - all scorers are called alike
    """Return 1 when the answer is a JSON object or array, strictly: see `read_json`."""
    return float(structure_of(answer) is not None)


def field_accuracy(answer: str, reference: str) -> float | None:
    """Return the share of the reference object's top-level fields that the answer has with equal value.

    0 for an answer that is no JSON object; None when the reference is none, or has no fields.
    """
    wanted, given = structure_of(reference), structure_of(answer)
    if not isinstance(wanted, dict) or not wanted:
        return None
    if not isinstance(given, dict):
        return 0.0
    return sum(key in given and is_equal(given[key], value) for key, value in wanted.items()) / len(wanted)


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal: 1 equals 1.0 but not true, the order of keys does not matter."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return bool(one == other)


def rouge_l(answer: str, reference: str) -> float | None:
    """Return ROUGE-L: F1 of the longest common subsequence of words, split at white space, case aside.

    None for a reference without words. Source: Lin, ROUGE (2004), with equal weight of precision and recall.
    """
    given, wanted = answer.casefold().split(), reference.casefold().split()
    if not wanted:
        return None
    return 2 * common_length(given, wanted) / (len(given) + len(wanted))


def common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, a machine word of table cells at a time.

    Source: Hyyro, Bit-parallel LCS-length computation revisited (2004). A zero bit i says that the length grows at i.
    """
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(one) - row.bit_count()


class Schema:
    """A JSON Schema that answers are held against, as the data check does it."""

    def __init__(self, source: Mapping[str, Any], name: str = "schema") -> None:
        """Open a schema. Raises: ConfigError when it is not a valid one."""
        self._conformance = Conformance(source, name)

    def score(self, answer: str) -> float:
        """Return 1 when the answer is a JSON object or array that obeys the schema."""
        value = structure_of(answer)
        return float(value is not None and not self._conformance.fault(value))


_SCORERS: dict[str, Callable[[str, str], float | None]] = {
    "exact_match": exact_match,
    "label_accuracy": label_accuracy,
    "numeric_match": numeric_match,
    "json_valid": json_valid,
    "field_accuracy": field_accuracy,
    "rouge_l": rouge_l,
}


def applicable(references: Sequence[str], *, has_schema: bool = False) -> list[str]:
    """Return the metrics that make sense for a set of references, in the order of METRICS; see the table on top."""
    if not references:
        return []
    chosen = {"exact_match", "stop_rate"}
    is_json = _share(references, lambda text: isinstance(structure_of(text), dict)) >= JSON_SHARE
    is_labels = not is_json and _are_labels(references)
    if is_json:
        chosen |= {"json_valid", "field_accuracy"}
    if is_labels:
        chosen.add("label_accuracy")
    if has_schema:
        chosen |= {"json_valid", "schema_valid"}
    if not is_json and _share(references, ends_in_number) >= NUMBER_SHARE:
        chosen.add("numeric_match")
    if not is_json and not is_labels and median(len(text.split()) for text in references) >= MIN_ROUGE_WORDS:
        chosen.add("rouge_l")
    return [name for name in METRICS if name in chosen]


def _are_labels(references: Sequence[str]) -> bool:
    labels = {_label(text) for text in references}
    is_small = 1 < len(labels) <= min(MAX_LABELS, len(references) / ROWS_PER_LABEL)
    return is_small and all(0 < len(label.split()) <= MAX_LABEL_WORDS for label in labels)


def ends_in_number(text: str) -> bool:
    """Return whether a text ends in a number, but for punctuation; or names one after `####`."""
    if _FINAL in text:
        return final_number(text) is not None
    ends = [found.end() for found in _NUMBER.finditer(text)]
    return bool(ends) and _AFTER_NUMBER.match(text, ends[-1]) is not None


def _share(texts: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, texts)) / len(texts)


def score(
    metrics: Sequence[str], answer: str, reference: str, *, finished: bool, schema: Schema | None = None
) -> dict[str, float]:
    """Return the named scores of one answer, 0 to 1; a metric that does not apply to this row is left out."""
    found: dict[str, float | None] = {}
    for name in metrics:
        if name == "stop_rate":
            found[name] = float(finished)
        elif name == "schema_valid":
            assert schema is not None, "schema_valid needs a schema"
            found[name] = schema.score(answer)
        else:
            found[name] = _SCORERS[name](answer, reference)
    return {name: value for name, value in found.items() if value is not None}

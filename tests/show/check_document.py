"""The document of a data check and its rows to look at: the bundled tickets, with invented faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from attune.bundled import tickets_folder
from tests.show.run_folder import HOSTILE

Record = dict[str, Any]
TRAIN, VALID = "tickets/train.jsonl", "tickets/valid.jsonl"


def read(name: str) -> list[Record]:
    """Return the rows of one of the bundled files."""
    with (tickets_folder() / name).open("rb") as file:
        return [orjson.loads(line) for line in file]


def make_document(*, has_model: bool = True) -> tuple[Record, list[Record]]:
    """Return what `attune check` would print about the tickets if they had a few faults, and rows to look at."""
    train, valid = read("train.jsonl"), read("valid.jsonl")
    document: Record = {
        "rows": len(train) + len(valid),
        "ok": False,
        "ledger": {"used": len(train) - 19, "cut": 4, "dropped": 9, "duplicate": 6, "held_out": len(valid)},
        "tokens": {"in": 99_530, "learned": 40_410, "lost": 1_771}
        if has_model
        else dict.fromkeys(("in", "learned", "lost")),
        "findings": FINDINGS,
        "files": [
            {"file": TRAIN, "rows": len(train), "read_as": "prompt/completion", "part": "train", "weight": 1.0},
            {"file": VALID, "rows": len(valid), "read_as": "prompt/completion", "part": "valid", "weight": 1.0},
        ],
        "lengths": _lengths(train, has_model=has_model),
        "coverage": _coverage(train),
        "duplicates": {"exact": 14, "near": 6, "clusters": _clusters(train)},
        "leaks": [_leak(at, valid[at]["prompt"]) for at in range(4)],
        "mismatch": MISMATCH,
        "template": TEMPLATE if has_model else None,
        "allowed": ["D09"],
    }
    return document, [_row(at, row, has_model=has_model) for at, row in enumerate(train[:40])]


def make_hostile() -> tuple[Record, list[Record]]:
    """Return the same with every text of the document and some rows replaced by one that must do no harm."""
    document, rows = make_document()
    hostile = [
        {**rows[at], "file": text, "flags": [text, "D10"], "pieces": [[text, 0], [text, 1]]}
        for at, text in enumerate(HOSTILE)
    ]
    return poison(document, HOSTILE[1]), [*hostile, *rows[len(hostile) :]]


def poison(value: Any, bad: str) -> Any:
    """Return the same JSON with every text replaced, names of openers and languages too; words that steer stay."""
    if isinstance(value, dict):
        return {key if key in KEYS or key[:1].isdigit() else bad: poison(item, bad) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [poison(item, bad) for item in value]
    return bad if isinstance(value, str) and value not in {"error", "warning", "info", "train", "valid"} else value


def _row(at: int, row: Record, *, has_model: bool) -> Record:
    pieces = [[f"<|user|>\n{row['prompt']}\n<|assistant|>\n", 0], [f"{row['completion']}<|end|>", 1], ["\n", 0]]
    if not has_model:
        pieces = [[row["prompt"], 0], [row["completion"], 1]]
    known = {"file": TRAIN, "line": at + 1, "state": "cut" if at == 3 else "used", "pieces": pieces}
    flags = [flag for flag, every in (("D10", 7), ("D06", 11)) if at % every == 2]
    counted = {"tokens": 84 + at, "learned": 41} if has_model else {"tokens": None, "learned": None}
    return {**known, **counted, "flags": flags}


def _lengths(train: list[Record], *, has_model: bool) -> Record:
    """Return a histogram of words, or of so many tokens, with a limit that a few rows pass."""
    words = [len(f"{row['prompt']} {row['completion']}".split()) for row in train]
    lengths = [3 * number for number in words] if has_model else words
    step = 3 if has_model else 1
    counts, edges = np.histogram(lengths, bins=range(0, max(lengths) + 2 * step, step))
    policies = [
        {"policy": "drop", "rows_lost": 9, "learned_lost": 371},
        {"policy": "cut", "rows_lost": 0, "learned_lost": 120},
        {"policy": "split", "rows_lost": 0, "learned_lost": 0},
    ]
    return {
        "unit": "tokens" if has_model else "words",
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "limit": int(np.quantile(lengths, 0.97)) if has_model else None,
        "over": {"rows": 9, "learned": 371} if has_model else None,
        "policies": policies if has_model else [],
    }


def _coverage(train: list[Record]) -> Record:
    openers = Counter(" ".join(row["prompt"].split()[:3]).lower() for row in train).most_common(20)
    return {
        "rows": len(train),
        "turns": {"1": len(train) - 30, "2": 22, "3": 8},
        "words": {
            part: dict(zip(("p5", "p50", "p95", "max"), _quantiles(train, key), strict=True))
            for part, key in (("question", "prompt"), ("answer", "completion"))
        },
        "formats": {"json": len(train) - 12, "plain": 12},
        "openers": [(opener, rows, rows / len(train)) for opener, rows in openers],
        "distinct_1": 0.071,
        "distinct_2": 0.312,
        "distinct_words": 4500,
        "compression_ratio": 5.83,
        "effective_clusters": 23.7,
        "cluster_rows": 1000,
        "languages": {"en": 0.981, "de": 0.012, "fr": 0.007},
        "system_prompt_share": 0.0,
        "tools_share": 0.0,
    }


def _quantiles(train: list[Record], key: str) -> list[float]:
    words = [len(row[key].split()) for row in train]
    return [*(float(np.quantile(words, q)) for q in (0.05, 0.5, 0.95)), max(words)]


def _clusters(train: list[Record]) -> list[Record]:
    lines = ((4, [12, 88, 140, 200]), (2, [7, 301]), (15, list(range(400, 415))))
    return [
        {
            "rows": rows,
            "places": [{"file": TRAIN, "line": line} for line in where],
            "text": train[where[0]]["prompt"],
        }
        for rows, where in lines
    ]


def _leak(at: int, text: str) -> Record:
    held, source = {"file": VALID, "line": 3 * at + 1}, {"train_file": TRAIN, "train_line": 40 * at + 8}
    kind = ("same row", "near-duplicate", "covered")[at % 3]
    return {**held, **source, "kind": kind, "overlap": 1 - 0.1 * at, "text": text}


def _finding(identity: str, name: str, severity: str, rows: int, **texts: Any) -> Mapping[str, Any]:
    seen = texts.pop("seen")
    examples = [{"file": TRAIN, "line": 7 * at + 3, "text": text} for at, text in enumerate(seen)]
    known = {"id": identity, "name": name, "severity": severity, "rows": rows, "share": rows / 1700}
    return {**known, **texts, "examples": examples}


FINDINGS = [
    _finding(
        "R01",
        "layout",
        "info",
        1500,
        message=f"{TRAIN}: read as prompt/completion.",
        fix="",
        seen=(),
    ),
    _finding(
        "D06",
        "duplicate",
        "warning",
        14,
        message="14 rows (0.8 %) repeat an earlier row (lines 88, 140, 200, ...). Each copy is trained once more in "
        "every epoch.",
        fix="attune check --fix OUT keeps the first of each; data.duplicates = drop trains without copies.",
        seen=("row 12",) * 14,
    ),
    _finding(
        "D10",
        "placeholder",
        "error",
        6,
        message="6 rows (0.4 %) hold a slot that nobody filled (lines 3, 10, 17, ...): {{name}} 4 times, "
        "[INSERT ORDER] twice. The model will say it.",
        fix="Fill the slots, or drop the rows: attune check --fix OUT does.",
        seen=("I am {{name}}, developed by {{author}}", "Dear [INSERT ORDER]", "{{name}}"),
    ),
    _finding(
        "D04",
        "split-leak",
        "error",
        4,
        message="4 rows (2.0 %) of the held-out rows repeat training rows. Validation will look better than it is.",
        fix="Take them out of one set: attune check --fix does, or let attune split by cluster (no data.valid).",
        seen=("equals train.jsonl:8",),
    ),
    _finding(
        "D11",
        "mismatch",
        "warning",
        61,
        message="61 of 120 of the real prompts are unlike the training prompts. The tuned model is trained for another "
        "use than it gets.",
        fix="Add rows like the prompts that are listed.",
        seen=(),
    ),
]
MISMATCH: Record = {
    "auc": 0.83,
    "low": 0.79,
    "high": 0.871,
    "z": 11.2,
    "rows_train": 1500,
    "rows_real": 120,
    "verdict": "mismatch",
    "words_real": [["refund", 2.1], ["password", 1.4], ["app", 0.6]],
    "words_train": [["pullover", -1.9], ["iron", -0.8]],
    "unlike": [
        {"text": "the app logs me out whenever i switch to mobile data, any idea?", "score": 0.0007},
        {"text": "can i change the mail address of my account", "score": 0.004},
    ],
}
TEMPLATE: Record = {
    "name": "plain",
    "reason": "the tokenizer has none",
    "terminator": "<|end|>",
    "problems": ["The template rewrites history: 22 rows with several answers are learned in another context."],
}
KEYS = {
    "rows", "ok", "ledger", "used", "cut", "dropped", "duplicate", "held_out", "tokens", "in", "learned", "lost",
    "findings", "id", "name", "severity", "share", "message", "fix", "examples", "file", "line", "text", "files",
    "read_as", "part", "weight", "lengths", "unit", "edges", "counts", "limit", "over", "policies", "policy",
    "rows_lost", "learned_lost", "coverage", "turns", "words", "question", "answer", "p5", "p50", "p95", "max",
    "formats", "openers", "distinct_1", "distinct_2", "compression_ratio", "effective_clusters", "languages",
    "system_prompt_share", "tools_share", "duplicates", "exact", "near", "clusters", "places", "leaks", "train_file",
    "train_line", "kind", "overlap", "mismatch", "auc", "low", "high", "z", "rows_train", "rows_real", "verdict",
    "words_real", "words_train", "unlike", "score", "template", "reason", "terminator", "problems", "allowed",
    "distinct_words", "cluster_rows",
}  # fmt: skip

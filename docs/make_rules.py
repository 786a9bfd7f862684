"""Prints docs/rules.md from the rules of the check and their numbers: `make docs` writes it, a test compares it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from attune.data.lint.catalog import RULES, Rule
from attune.data.lint.thresholds import DEFAULT

HEAD = """# Rules of the check

Made by `make docs` from `src/attune/data/lint/catalog.py` and `thresholds.py`. How to read a finding, and what else the
check tells, is in [check.md](check.md).

Severity is the worst that a rule gives. A finding can be milder, where few rows are concerned or the evidence is weak.
An error ends the check with exit code 3 and keeps training from starting. `--allow` and `data.allow` take an id, which
may stand for several rules, or a name.
"""

SEVERITIES = """
Milder than in the table are

- `split-leak`, a warning up to 1 % of the held-out rows (short near-duplicates, which may be chance, do not count),
- `template-in-content`, a warning below three rows or 0.5 % of them: a row or two speak about markup,
- `placeholder`, a warning in plain text, where a slot is part of the text,
- `conflict`, an error only where more than 5 % of the training rows contradict others with a label that at least five
  rows have; answers that nobody else gives may all be meant,
- `opener-concentration`, an error only for an empty opener (Sure, Certainly, I'm sorry, ...) of more than 20 % of the
  answers that have one, else a warning,
- `truncation`, a warning where more than 0.5 % of the learned tokens are lost, else an info; `no-stop`, a warning:
  what happens to long rows is chosen with `data.overlong`,
- `refusal`, an info below 5 % of the answers,
- `mismatch`, an info where the prompts are alike or too few.
"""

OTHER_HEAD = """
## Findings that are no rules

What reading, template and tokenizer had to say. R00 to R07 come with every check, the T findings with `--model`.

| id | name | severity | what it says |
|---|---|---|---|
"""

# id, name, severity, what it says; a test compares ids and names with those in the code
OTHERS = (
    ("R00", "unusable-file", "error", "A file cannot be used at all: absent, empty, another format, no known layout."),
    ("R00", "nothing-usable", "error", "No row is left that could be trained on."),
    (
        "R01",
        "layout",
        "warning",
        "How a file was read; a warning for plain text beside a column that looks like its answer, else an info.",
    ),
    (
        "R02",
        "bad-row",
        "error",
        "Rows that are no JSON or lack what their layout needs; those that break D03 or D07 have these ids.",
    ),
    ("R04", "not-json-number", "info", "NaN, Infinity or a number too large, in a field that is not read."),
    ("R06", "weight-zero", "info", "Rows of weight 0: left out."),
    ("R07", "files-not-read", "info", "Files of a folder or glob whose names are not those of data: not read."),
    ("D10", "empty-answer", "warning", "Rows with an empty answer: dropped, unless `data.on_empty` says otherwise."),
    ("T00", "template-fails", "error", "The chat template cannot show a question with its answer, or a row."),
    ("T01", "template", "info", "Which chat template is used, why, and what ends an answer."),
    ("T02", "lossy-tokenizer", "warning", "Answers with characters that this tokenizer cannot give back."),
    (
        "T03",
        "rewritten-history",
        "warning",
        "The template shows an earlier answer otherwise once other turns follow; an info where no row is concerned.",
    ),
    ("T03", "history-refused", "info", "The template refuses conversations of several turns."),
    (
        "T04",
        "encoded-in-parts",
        "info",
        "A token would straddle the border of an answer; such rows are encoded in parts.",
    ),
    ("T05", "control-text", "info", "The text spells a control token: encoded as plain text."),
    ("T06", "double-begin-token", "warning", "A row begins with two begin tokens."),
    ("T07", "terminator-not-learned", "error", "An answer has no end token that could be learned."),
    ("T08", "prompt-not-a-prefix", "warning", "What the model is asked at inference is not how a training row begins."),
    ("T09", "no-system-role", "info", "The template shows no system prompts: rows that have one are refused."),
    ("T10", "no-tools", "info", "The template does not show tool definitions, and rows have some."),
)

NUMBERS_HEAD = """
## Numbers

Every threshold of the check. Shares are of rows, 0 to 1. Words are runs of letters and digits, in any case; signs of
mathematics, and characters of scripts without spaces, are a word each. These numbers are no settings.
"""

GROUP = re.compile(r"    # (.+)")
NUMBER = re.compile(r"    (\w+): \w+ = [\w.]+(?:  # (.+))?")


def rules_page() -> str:
    """The page: every rule, the findings beside them, and every number."""
    lines = [HEAD, "| id | name | severity | rows that | why it matters | what to do |", "|---|---|---|---|---|---|"]
    lines += [_rule_line(rule) for rule in sorted(RULES.values(), key=lambda rule: rule.id)]
    lines += [SEVERITIES + OTHER_HEAD.rstrip("\n")]
    lines += [f"| {identity} | `{name}` | {severity} | {said} |" for identity, name, severity, said in OTHERS]
    return "\n".join([*lines, NUMBERS_HEAD, *number_lines(DEFAULT)]) + "\n"


def _rule_line(rule: Rule) -> str:
    return f"| {rule.id} | `{rule.name}` | {rule.severity} | {rule.title} | {rule.harm} | {rule.fix} |"


def number_lines(thresholds: object) -> Iterator[str]:
    """Yield a table of thresholds, under the comments that group them in the source of their class."""
    yield from ("| number | value | what it is |", "|---|--:|---|")
    for line in inspect.getsource(type(thresholds)).splitlines():
        group, number = GROUP.fullmatch(line), NUMBER.fullmatch(line)
        if group:
            yield f"| **{group[1]}** | | |"
        if number:
            yield f"| `{number[1]}` | {getattr(thresholds, number[1])} | {number[2] or ''} |"


if __name__ == "__main__":
    print(rules_page(), end="")

"""Is the data fit to train on? Everything that training would do with the rows, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attune.config import Config
from attune.data.audit import Audit, InputFile, audit, count_states
from attune.data.cleaning.fix import check_fix_out
from attune.data.cleaning.fix import fix as fix_files
from attune.data.cleaning.seen import Seen, see
from attune.data.coverage.prompts import compare_with_file
from attune.data.document import (
    MOST_CLUSTERS,
    MOST_LEAKS,
    duplicates_document,
    leaks_document,
    lengths_in_tokens,
    lengths_in_words,
)
from attune.data.encoding.mask import Masker
from attune.data.encoding.probe import template_problems
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.files import list_files
from attune.data.findings import find_refused, in_order
from attune.data.lint.verdict import soften
from attune.data.lint.waivers import Waivers, open_waivers
from attune.data.prepare import Prepared, prepare
from attune.data.view_rows import choose_rows, fetch_examples, flags_of, short_text, show_rows, spread_rows
from attune.errors import ConfigError, DataError, TemplateError
from attune.model.folder import check_vocabulary, locate, model_length
from attune.record import plain
from attune.types import Finding, Place

STATES = ("used", "cut", "dropped", "duplicate", "held_out")
ANY_NUMBER = 2**31  # of bad rows: a check tells them all and goes on


@dataclass(frozen=True)
class Checked:
    """A check: the JSON document of `attune check`, and what can be asked for beside it."""

    document: Mapping[str, Any]
    audit: Audit
    config: Config
    prepared: Prepared | None  # None without a model, or where no row could be encoded

    def rows(self, count: int = 0) -> list[dict[str, Any]]:
        """Return rows to look at, read again: `count` training rows, or (0) those of findings and some others."""
        surveyed = self.audit.surveyed
        numbers = spread_rows(surveyed, count) if count else choose_rows(surveyed)
        examples = fetch_examples(surveyed, numbers, self.config.data)
        masker = Masker(self.prepared.template, self.config.data.mask) if self.prepared else None
        flags = flags_of(surveyed, numbers)
        return show_rows(examples, flags, self._state_of(), masker, mask=self.config.data.mask)

    def with_texts(self) -> dict[str, Any]:
        """Return the document with the rows' own words where it names clusters and leaks, read again."""
        surveyed = self.audit.surveyed
        numbers = [leak.row for leak in surveyed.leaks[:MOST_LEAKS]]
        numbers += [int(rows[0]) for rows in surveyed.duplicates.clusters[:MOST_CLUSTERS]]
        examples = fetch_examples(surveyed, numbers, self.config.data)
        texts = {number: short_text(example) for number, example in examples.items()}
        return {
            **self.document,
            "duplicates": duplicates_document(surveyed, texts),
            "leaks": leaks_document(surveyed, texts),
        }

    def fix(self, out: Path) -> dict[str, Any]:
        """Write a cleaned copy of the training rows to `out`, with its ledger; return what was done.

        Raises: RefusedError or ConfigError when `out` cannot be taken; DataError when no row would be left.
        """
        files = [file.intake.path for file in self.audit.files if file.part == "train"]
        data = self.config.data
        ledger = fix_files(
            files,
            out,
            self._look,
            seen=_seen(self.audit),
            max_row_bytes=data.max_row_bytes,
            waivers=open_waivers(data.allow, data.ignore),
        )
        return {
            "path": str(ledger.out),
            "ledger": str(ledger.path),
            "rows": ledger.rows,
            "kept": ledger.kept,
            "dropped": ledger.dropped,
            "repaired": ledger.repaired,
            "reasons": dict(ledger.reasons),
            "left": dict(ledger.left),
            "settled": ledger.settled,
            "stated": ledger.stated,
        }

    def _look(self, files: Sequence[str]) -> Seen:
        """Survey written files in the place of the ones that are fixed."""
        config = _tolerant(self.config).with_values({"data.train": list(files)})
        return _seen(audit(config, Waivers(), with_coverage=False))

    def _state_of(self) -> Callable[[Place], str]:
        if not self.prepared:
            held_out = {file.intake.path for file in self.audit.files if file.part != "train"}
            return lambda place: "held_out" if place.file in held_out else "used"
        states = {(entry.place.file, entry.place.offset): entry.state for entry in self.prepared.entries}
        return lambda place: states[place.file, place.offset]


def check_fix_target(config: Config, out: Path) -> None:
    """Raise RefusedError or ConfigError when a cleaned copy cannot be written to `out`; reads no row."""
    check_fix_out([file.path for file in list_files(config) if file.part == "train"], out)


def check_rows(config: Config, *, against: str = "", with_scores: bool = False, with_coverage: bool = True) -> Checked:
    """Return whether rows are fit to train on. With a model, tokens are counted and the template is tried.

    `against`: a file of real prompts that the training prompts should be like. `with_scores`: the model scores every
    answer, too (rules D17 and D18). Bad rows are findings here, all of them, and the rest is looked at as if they had
    been dropped.
    Raises: DataError when a file as a whole cannot be used; ConfigError or ModelError as training would.
    """
    if not config.data.train:
        raise ConfigError("which rows? Give a file: attune check DATA")
    waivers = open_waivers(config.data.allow, config.data.ignore)
    prepared, problem = _prepare(config, with_coverage=with_coverage) if config.model else (None, None)
    looked = _audit_of(prepared, config) if prepared else audit(_tolerant(config), waivers, with_coverage=with_coverage)
    mismatch, other = None, list(problem or ())
    if against:
        mismatch, finding = compare_with_file(looked.surveyed, against, config)
        other.append(finding)
    if with_scores:
        if not prepared:
            raise ConfigError("--score: which model shall score the answers? Name it: --model FOLDER")
        from attune.train.score import score_answers

        other += score_answers(prepared, config)
    refused = [one for file in looked.files for one in find_refused(file.intake, config.data.skip_bad_rows)]
    told = [one for one in looked.findings if one.name != "bad-row" or not refused]
    findings = in_order([*refused, *(soften(one, waivers) for one in other), *told])
    document = _document(looked, findings, prepared, config)
    return Checked({**document, "mismatch": mismatch}, looked, config, prepared)


def unusable(error: DataError) -> dict[str, Any]:
    """Return the document for a file that cannot be used at all: no rows, and the fault as the one finding."""
    finding = Finding("R00", "unusable-file", "error", 0, 0.0, str(error), "")
    tokens = dict.fromkeys(("in", "learned", "lost"))
    counts = dict.fromkeys(STATES, 0)
    return {"rows": 0, "ok": False, "ledger": counts, "tokens": tokens, "findings": [plain(finding)]}


def _seen(looked: Audit) -> Seen:
    """Return what a fix needs to know of a survey."""
    return see(looked.surveyed, [file.intake for file in looked.files if file.part == "train"])


def _tolerant(config: Config) -> Config:
    """Return the config of a check: bad rows are told, and what is kept of rows would not do."""
    return config.with_values({"data.skip_bad_rows": ANY_NUMBER, "data.cache": "off"})


def _prepare(config: Config, *, with_coverage: bool) -> tuple[Prepared | None, list[Finding] | None]:
    """Return the rows as tokens, bad ones left out; what keeps all of them from being encoded is a finding."""
    base = locate(config.model)
    tokenizer = load_tokenizer(base)
    open_template(config.data.template, tokenizer)  # one that cannot be used at all ends a check as it ends a training
    try:
        prepared = prepare(_tolerant(config), tokenizer, model_length=model_length(base), with_coverage=with_coverage)
    except TemplateError as error:
        return None, [Finding("T00", "template-fails", "error", 0, 0.0, str(error), "Use another data.template.")]
    except DataError as error:
        return None, [Finding("R00", "nothing-usable", "error", 0, 0.0, str(error), "")]
    prepared.template.compiles = False  # what is rendered from here on is little: Jinja itself says what it shows
    check_vocabulary(base, prepared.largest_id)
    told = [one for one in _problems(prepared) if one.severity == "info"]
    return prepared, told


def _audit_of(prepared: Prepared, config: Config) -> Audit:
    """Return what a preparation saw in the words of an audit."""
    weights = [file.weight for file in list_files(config)]
    files = tuple(
        InputFile(collection.intake, collection.part, weight)
        for collection, weight in zip(prepared.collections, weights, strict=True)
    )
    return Audit(files, prepared.surveyed, prepared.findings)


def _document(looked: Audit, findings: Sequence[Finding], prepared: Prepared | None, config: Config) -> dict[str, Any]:
    """Return the JSON document of a check."""
    surveyed = looked.surveyed
    texts: Mapping[int, str] = {}
    ledger = prepared.ledger if prepared else None
    counts = (
        {state: ledger.counts[state] for state in STATES}
        if ledger
        else count_states(looked.files, surveyed, drops_copies=config.data.duplicates == "drop")
    )
    return {
        "rows": sum(file.intake.rows for file in looked.files),
        "ok": not any(finding.severity == "error" for finding in findings),
        "ledger": counts,
        "tokens": {
            "in": ledger.tokens_in + ledger.tokens_augmented if ledger else None,
            "learned": ledger.tokens_learned if ledger else None,
            "lost": ledger.tokens_lost if ledger else None,
        },
        "augmented": ledger.augmented if ledger else None,
        "findings": [plain(finding) for finding in findings],
        "files": [
            {
                "file": file.intake.path,
                "rows": file.intake.rows,
                "read_as": file.intake.stated,
                "part": file.part,
                "weight": file.weight,
            }
            for file in looked.files
        ],
        "lengths": lengths_in_tokens(prepared) if prepared else lengths_in_words(surveyed),
        "coverage": surveyed.coverage,
        "duplicates": duplicates_document(surveyed, texts),
        "leaks": leaks_document(surveyed, texts),
        "template": _template(prepared),
        "allowed": list(config.data.allow),
    }


def _problems(prepared: Prepared) -> list[Finding]:
    """Return what is odd about the chat template, tools only where rows define some."""
    coverage = prepared.surveyed.coverage
    return template_problems(prepared.template, has_tools=coverage is None or coverage["tools_share"] > 0)


def _template(prepared: Prepared | None) -> dict[str, Any] | None:
    if prepared is None:
        return None
    template = prepared.template
    return {
        "name": template.name,
        "reason": template.reason,
        "terminator": template.terminator,
        "problems": [finding.message for finding in _problems(prepared)],
    }

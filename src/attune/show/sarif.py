"""The document of `attune check` as SARIF 2.1.0, which code hosts and editors show beside the lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

import attune
from attune.show.facts import number
from attune.show.words import visible

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 25_000  # GitHub refuses a run with more
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def sarif(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a SARIF log: a rule for each finding, a result for each place it names.

    A finding without a place is a result about the first training file; those that were allowed are suppressed.
    Source: OASIS, Static Analysis Results Interchange Format 2.1.0, sections 3.14 (run), 3.27 (result), 3.49 (rule).
    """
    findings = [finding for finding in document.get("findings") or () if isinstance(finding, Mapping)]
    rules: dict[str, dict[str, Any]] = {}
    for finding in findings:
        rules.setdefault(_rule_id(finding), _rule(finding))
    index = {identity: at for at, identity in enumerate(rules)}
    allowed = {str(identity) for identity in document.get("allowed") or ()}
    results = [
        {"ruleIndex": index[_rule_id(finding)], **result}
        for finding in findings
        for result in _results(finding, _first_file(document), is_allowed=_names(finding) & allowed != set())
    ]
    driver = {"name": "attune", "version": attune.__version__, "rules": list(rules.values())}
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": _left_out(len(results))}],
        "results": results[:MAX_RESULTS],
        "properties": {"rows": document.get("rows"), "ok": document.get("ok")},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _left_out(results: int) -> list[dict[str, Any]]:
    """Return the note that not all results are there; nothing where they are."""
    if results <= MAX_RESULTS:
        return []
    text = f"{results:,} places were found; the first {MAX_RESULTS:,} are here, which is what code hosts accept."
    return [{"level": "warning", "message": {"text": text}}]


def _names(finding: Mapping[str, Any]) -> set[str]:
    return {str(finding.get("id")), str(finding.get("name"))}


def _rule_id(finding: Mapping[str, Any]) -> str:
    """Return a name that no other kind of finding has: several kinds may share an id."""
    return f"{finding.get('id', '')}/{finding.get('name', '')}"


def _rule(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Return a kind of finding, with what it means here and what to do as its help."""
    message, fix = _text(finding.get("message")), _text(finding.get("fix"))
    name = str(finding.get("name", ""))
    return {
        "id": _rule_id(finding),
        "name": "".join(part.capitalize() for part in name.split("-")) or "Finding",
        "shortDescription": {"text": name.replace("-", " ").capitalize() or "Finding"},
        "fullDescription": {"text": message},
        "help": {"text": f"{message}\n{fix}".strip()},
        "defaultConfiguration": {"level": _level(finding)},
    }


def _results(finding: Mapping[str, Any], first_file: str, *, is_allowed: bool) -> Iterator[dict[str, Any]]:
    """Yield a result for each place of a finding."""
    known: dict[str, Any] = {"ruleId": _rule_id(finding), "level": _level(finding)}
    if is_allowed:
        known["suppressions"] = [{"kind": "external", "justification": "allowed by the user"}]
    message = _text(finding.get("message"))
    examples = finding.get("examples") or ({"file": first_file},)
    for example in examples:
        seen = _text(example.get("text"))
        text = f"{seen}\n{message}" if seen else message
        location = _location(example)
        yield {**known, "message": {"text": text}, **({"locations": [location]} if location else {})}


def _location(example: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a place as SARIF names it; None for no file."""
    file = str(example.get("file") or "")
    if not file:
        return None
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(file)}}
    line = number(example.get("line"))
    if line is not None and line >= 1:
        physical["region"] = {"startLine": int(line)}
    return {"physicalLocation": physical}


def _uri(file: str) -> str:
    """Return a file as a URI: relative as it was named, absolute with its scheme, a Hub id as it is."""
    if file.startswith("hub:"):
        return quote(file, safe="/:")
    path = PurePath(file)
    if path.is_absolute():
        return path.as_uri()
    return quote(str(PurePosixPath(*path.parts)), safe="/")


def _level(finding: Mapping[str, Any]) -> str:
    return _LEVELS.get(str(finding.get("severity")), "none")


def _first_file(document: Mapping[str, Any]) -> str:
    files = [file for file in document.get("files") or () if isinstance(file, Mapping)]
    return str(files[0].get("file", "")) if files else ""


def _text(value: Any) -> str:
    """Return a text as a reader may see it: nothing in it hides or reorders."""
    return visible("" if value is None else str(value))

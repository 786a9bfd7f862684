"""The SARIF log of a check: every place is a result that code hosts can show."""

from __future__ import annotations

from typing import Any

import pytest

from attune.show import sarif as sarif_module
from attune.show.sarif import sarif
from tests.show.check_document import TRAIN, make_document, make_hostile


def results(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a document's log."""
    found: list[dict[str, Any]] = sarif(document)["runs"][0]["results"]
    return found


def test_every_place_is_a_result() -> None:
    """Each example stands with its file and line, its level, and the rule whose help says what to do."""
    document, _ = make_document()
    run = sarif(document)["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [
        "R01/layout",
        "D06/duplicate",
        "D10/placeholder",
        "D04/split-leak",
        "D11/mismatch",
    ]
    assert "Fill the slots" in rules[2]["help"]["text"]
    assert rules[2]["name"] == "Placeholder"
    placeholders = [result for result in run["results"] if result["ruleId"] == "D10/placeholder"]
    assert [one["level"] for one in placeholders] == ["error"] * 3
    assert placeholders[0]["message"]["text"].startswith("I am {{name}}, developed by {{author}}\n6 rows")
    physical = placeholders[1]["locations"][0]["physicalLocation"]
    assert physical == {"artifactLocation": {"uri": TRAIN}, "region": {"startLine": 10}}
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert len(run["results"]) == 14 + 3 + 1 + 1 + 1
    assert run["invocations"][0]["toolExecutionNotifications"] == []


def test_a_finding_without_a_place_is_about_the_file() -> None:
    """A finding about all rows names the first file and no line."""
    document, _ = make_document()
    layout = next(result for result in results(document) if result["ruleId"] == "R01/layout")
    assert layout["level"] == "note"
    assert layout["locations"] == [{"physicalLocation": {"artifactLocation": {"uri": TRAIN}}}]
    del document["files"]
    assert "locations" not in next(result for result in results(document) if result["ruleId"] == "R01/layout")


def test_allowed_findings_are_suppressed() -> None:
    """What the user allowed, by id or by name, is suppressed with the reason; the rest is not."""
    document, _ = make_document()
    document["allowed"] = ["D10", "split-leak"]
    suppressed = {result["ruleId"] for result in results(document) if result.get("suppressions")}
    assert suppressed == {"D10/placeholder", "D04/split-leak"}


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("my data/a#1.jsonl", "my%20data/a%231.jsonl"),
        ("hub:owner/name:train", "hub:owner/name:train"),
        ("/data/r\u00f6ws.jsonl", "file:///data/r%C3%B6ws.jsonl"),
        ("50%.jsonl", "50%25.jsonl"),
    ],
)
def test_files_are_uris(file: str, uri: str) -> None:
    """A file's name becomes a URI that leads back to it."""
    finding = {"id": "D1", "name": "x", "severity": "error", "examples": [{"file": file, "line": 0, "text": ""}]}
    (result,) = results({"findings": [finding]})
    assert result["locations"] == [{"physicalLocation": {"artifactLocation": {"uri": uri}}}]


def test_too_many_results_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code hosts refuse a log with too many results: the rest is left out and counted."""
    monkeypatch.setattr(sarif_module, "MAX_RESULTS", 5)
    run = sarif(make_document()[0])["runs"][0]
    assert len(run["results"]) == 5
    assert (
        "20 places were found; the first 5" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]
    )


def test_empty_and_hostile_documents() -> None:
    """An empty document is a log without results; hidden characters are written out."""
    assert sarif({})["runs"][0]["results"] == []
    document, _ = make_hostile()
    document["findings"][0]["message"] = "a\u202eb\x1b[0m"
    assert sarif(document)["runs"][0]["results"][0]["message"]["text"] == "a[U+202E]b[U+001B][0m"

"""The report: one offline file that says what the run folder says, in order, and in which data are only text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from attune.errors import ConfigError
from attune.record import RunFolder
from attune.show.report import write_report
from tests.show.pages import MAX_BYTES, Page
from tests.show.run_folder import HOSTILE, write_run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a complete run."""
    return write_report(write_run(tmp_path_factory.mktemp("runs"))).read_text("utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    """The same, parsed."""
    return Page(source)


def test_sections_in_order(page: Page) -> None:
    """The verdict comes first, the next command last."""
    ids = [attributes["id"] for tag, attributes in page.elements if tag in {"header", "section"} and "id" in attributes]
    assert ids == [
        "verdict",
        "comparison",
        "alarms",
        "curves",
        "guards",
        "loss-parts",
        "followed",
        "answers",
        "data",
        "rows",
        "warnings",
        "settings",
        "machine",
        "next",
    ]
    assert page.text.index("The tuned model is better") < page.text.index("Base against tuned")


def test_figures_of_the_run(page: Page) -> None:
    """What was measured stands on the page: key figures, the comparison, reasons, settings, machine, next command."""
    text = re.sub(r"\s+", " ", page.text.replace("\u00a0", " "))
    for wanted in (
        "1,800", "of 1,620 rows in, 300 reworded", "60,411", "of 1,620 rows in", "4.871", "0.388", "1 min 50 s",
        "Fields right", "0.0 %", "93.2 %", "+93.2", "+91.0 to +95.0", "< 0.001", "better", "no evidence",
        "a difference of 2.1 points would have shown",
        "duplicate: same prompt and answer", "Validation loss has risen three times", "role-order",
        "full fine-tuning of a model under 50 million parameters", "9,871,360", "SHA-256 " + "ab" * 32,
        "attune train train.jsonl --model starter --train.epochs 3", "tickets-1 --compare", "no cuda device",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_no_request_and_no_foreign_script(page: Page, source: str) -> None:
    """Nothing on the page names another address, and the policy admits exactly the scripts and styles it carries."""
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert "style" not in attributes, tag
    policy = next(
        a["content"] or "" for t, a in page.elements if t == "meta" and "content-security-policy" in str(a).lower()
    )
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    types = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert types == ["application/json", None, None]
    raw = re.findall(r"<(script|style)[^>]*>(.*?)</\1>", source, re.DOTALL)
    for index, (_, content) in enumerate(raw):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        is_data = content.startswith('{"loss"')
        assert is_data or f"'sha256-{digest}'" in policy, index


def test_size(source: str) -> None:
    """A run's report with Plotly inside stays under 8 MB."""
    assert len(source.encode()) < MAX_BYTES


def test_hostile_rows_are_text(tmp_path: Path) -> None:
    """Markup, addresses and control characters in rows, answers and names end as text: no element comes from data."""
    plain_page = Page(write_report(write_run(tmp_path, name="plain")).read_text("utf-8"))
    run = write_run(tmp_path, name="hostile", hostile=True)
    source = write_report(run).read_text("utf-8")
    hostile_page = Page(source)
    assert {tag for tag, _ in hostile_page.elements} == {tag for tag, _ in plain_page.elements}
    assert [tag for tag, _ in hostile_page.elements].count("script") == 3
    for text in HOSTILE[:3]:
        assert text in hostile_page.text
    assert "\u202e" not in source
    assert "\u200b" not in source.partition("<main")[2].partition("<script")[0]
    assert "[U+202E]gnp.exe [U+0000][U+001B][31m red [U+200B] zero" in hostile_page.text


def test_hostile_everywhere(tmp_path: Path) -> None:
    """Every text of the run folder may be hostile: names, reasons, findings, events, settings, verdict."""
    run = RunFolder(write_run(tmp_path))
    bad = HOSTILE[1]
    elements = [tag for tag, _ in Page(write_report(run.path).read_text("utf-8")).elements]
    for name in ("manifest.json", "findings.json", "result.json", "eval/test.json"):
        run.write_json(name, poison(json.loads((run.path / name).read_text("utf-8")), bad))
    summary = {"summary": {"rows": 1, "counts": {"used": 1}, "reasons": {bad: 1}, "tokens_in": 2, "tokens_learned": 1}}
    run.write_lines("ledger.jsonl", [summary])
    run.append("events.jsonl", {"time": 1, "kind": bad, "message": bad})
    page = Page(write_report(run.path).read_text("utf-8"))
    assert page.text.count(bad) > 20
    assert {tag for tag, _ in page.elements} <= {*elements}
    assert not any("onerror" in attributes for _, attributes in page.elements)


def poison(value: object, bad: str) -> object:
    """The same JSON with every text replaced, except the words that steer the page."""
    if isinstance(value, dict):
        return {key: poison(item, bad) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item, bad) for item in value]
    return bad if isinstance(value, str) and value not in {"done", "base", "tuned", "warning"} else value


def test_chart_data_is_json_without_markup(source: str) -> None:
    """Chart data parses as JSON, holds no `<`, and has all charts."""
    found = re.search(r'<script type="application/json" id="chart-data">(.*?)</script>', source, re.DOTALL)
    assert found
    assert "<" not in found[1]
    assert {"loss", "perplexity", "funnel_rows", "funnel_tokens"} <= set(json.loads(found[1]))


def test_unfinished_run(tmp_path: Path) -> None:
    """A killed run with hardly any file has a report that says what is missing and how to go on."""
    run = RunFolder.create(tmp_path / "killed")
    run.append("metrics.jsonl", {"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25})
    (run.path / "checkpoints" / "step-2").mkdir(parents=True)
    text = Page(write_report(run.path).read_text("utf-8")).text
    assert "The run has not finished: the last record is step 2." in text
    assert "manifest.json is missing" in text
    assert "The ledger was not written" in text
    assert "attune resume" in text


def test_empty_folder(tmp_path: Path) -> None:
    """Even an empty folder gets a page."""
    text = Page(write_report(tmp_path).read_text("utf-8")).text
    assert "No step was recorded" in text
    assert "No rows were recorded for viewing." in text


def test_no_folder(tmp_path: Path) -> None:
    """A folder that does not exist is the user's mistake, in words."""
    with pytest.raises(ConfigError, match="no such folder"):
        write_report(tmp_path / "absent")


def test_next_command_follows_the_run(tmp_path: Path) -> None:
    """A finished run without evaluation is to be evaluated next."""
    text = Page(write_report(write_run(tmp_path, evaluated=False)).read_text("utf-8")).text
    assert "attune eval" in text.partition("Do it again")[2]


def test_huge_run_stays_small(tmp_path: Path) -> None:
    """Very many steps, long hostile rows and answers and many findings stay under 8 MB, and it is said."""
    path = write_run(tmp_path, steps=20_000)
    run = RunFolder(path)
    long = "<" * 50_000
    pieces = [[long, 0], [long, 1]]
    preview = [{"file": "f", "line": n, "tokens": 9, "learned": 9, "pieces": pieces} for n in range(60)]
    run.write_lines("preview.jsonl", preview)
    rows = [{"file": "f", "line": n, "prompt": long, "reference": long, "answers": {"base": long}} for n in range(60)]
    run.write_lines("eval/test.jsonl", rows)
    run.write_json("findings.json", [{"id": "D1", "message": long, "fix": long, "examples": []} for _ in range(250)])
    heated = {"file": "f", "line": 1, "tokens": 600, "pieces": [["<" * 100, 1.5]] * 600}
    run.write_json("extremes.json", {"step": 1, "worst": [heated] * 10, "best": [heated] * 10})
    steps = [(step, at) for step in range(100) for at in range(50 if step < 3 else 1)]  # the first prompt has them all
    told = [{"step": step, **rows[at], "answer": long} for step, at in steps]
    run.write_lines("samples.jsonl", told)
    source = write_report(path).read_text("utf-8")
    assert len(source.encode()) < MAX_BYTES
    text = Page(source).text
    assert re.search(r"The first \d+ of 50 prompts are on this page", text)
    assert re.search(r"The first \d+ of 60 rows of the preview are on this page", text)
    assert re.search(r"The first \d+ of 60 rows are on this page", text)
    assert "The first 200 of 250 findings" in text

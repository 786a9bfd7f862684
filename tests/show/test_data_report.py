"""The page about a data check: one offline file that says what the document says, in which data are only text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from attune.show import page as page_module
from attune.show.data_report import render_data_report, write_data_report
from attune.show.data_sections import next_command, policies, ranked, short_names, verdict
from tests.show.check_document import TRAIN, make_document, make_hostile
from tests.show.pages import MAX_BYTES, Page
from tests.show.run_folder import HOSTILE


@pytest.fixture(scope="module")
def source() -> str:
    """The page about the tickets with their planted faults."""
    return render_data_report(*make_document())


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    """The same, parsed."""
    return Page(source)


def words_of(page: Page) -> str:
    """Return the text of a page on one line."""
    return re.sub(r"\s+", " ", page.text.replace("\u00a0", " "))


def test_sections_in_order(page: Page) -> None:
    """The verdict comes first, then what is wrong, the next command last."""
    ids = [attributes["id"] for tag, attributes in page.elements if tag in {"header", "section"} and "id" in attributes]
    order = ["verdict", "findings", "funnel", "lengths", "rows", "coverage", "copies", "leaks", "mismatch", "template"]
    assert ids == [*order, "next"]


def test_what_the_document_says(page: Page) -> None:
    """Figures, findings, the cost of each policy, openers, copies, leaks and real prompts stand on the page."""
    text = words_of(page)
    for wanted in (
        "These rows are not fit to train on: 2 errors to mend first.", "1,485", "of 1,700 rows in 2 files", "40,410",
        "hold a slot that nobody filled", "Fill the slots", "And 9 more, listed by --json", "data.overlong",
        "371 (0.9 %)", "9 rows are longer than the limit, with 371 learned tokens in all.",
        "train.jsonl:12, train.jsonl:88", "train.jsonl:411, ...", "valid.jsonl:4", "train.jsonl:48", "90.0 %",
        "AUC of 0.830 (95 % interval 0.790 to 0.871)", "logs me out", "password", "98.1 %", "i have order",
        "an answer ends with <|end|>", "rewrites history", "attune check tickets/train.jsonl --fix cleaned.jsonl",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_findings_are_told_worst_first(page: Page) -> None:
    """Errors stand before warnings, whatever their order in the document, and lead to their rows."""
    text = words_of(page)
    places = [text.index(name) for name in ("placeholdererror", "split-leakerror", "duplicatewarning", "layoutinfo")]
    assert places == sorted(places)
    links = [attributes["data-kind"] for tag, attributes in page.elements if tag == "a" and "data-kind" in attributes]
    options = [attributes["value"] for tag, attributes in page.elements if tag == "option"]
    assert len(links) == 2
    assert set(links) <= set(options)


def test_without_a_model(tmp_path: Path) -> None:
    """Nothing is claimed about tokens that were not counted; turns stand on lines of their own."""
    path = write_data_report(*make_document(has_model=False), tmp_path / "new" / "data.html")
    assert path == tmp_path / "new" / "data.html"
    text = Page(path.read_text("utf-8")).text
    assert "Learned tokens" not in text
    assert "Chat template" not in text
    assert "Without a model" in text
    assert 'Stanley\n{"product"' in text


@pytest.mark.parametrize("value", [None, {}, []])
def test_whatever_is_absent_is_left_out(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key may be missing or empty, alone or with all others, and the page says the rest."""
    monkeypatch.setattr(page_module, "plotly_source", str)  # nothing is drawn here
    document, rows = make_document()
    for key in document:
        assert "fit to train on" in render_data_report({**document, key: value}, rows[:2])
    elements = Page(render_data_report(dict.fromkeys(document, value), [])).elements
    assert [a["id"] for tag, a in elements if tag == "section" and "id" in a] == ["findings", "next"]


def test_good_rows() -> None:
    """Rows without a fault are said to be fit, and what to do next follows from what was looked at."""
    document, _ = make_document()
    good = {**document, "ok": True, "findings": []}
    assert verdict(good)[0] == "These rows are fit to train on, nothing speaks against it."
    assert "Allowed, whatever they found: D09." in verdict(good)[1]
    assert next_command(good)[0] == f"attune train {TRAIN} --model FOLDER"
    assert next_command({**good, "template": None})[0] == f"attune check {TRAIN} --model FOLDER"
    assert next_command({**good, "ok": False})[0] == f"attune check {TRAIN}"


def test_policies_that_cost_nothing_are_not_told() -> None:
    """Where no row is too long there is nothing to choose."""
    document, _ = make_document()
    assert [policy for policy, _, _ in policies(document)] == ["drop", "cut", "split"]
    free = [{"policy": "drop", "rows_lost": 0, "learned_lost": 0}]
    assert policies({**document, "lengths": {**document["lengths"], "policies": free}}) == []


def test_names_are_short_and_distinct() -> None:
    """A file is called by its own name, unless two share it: then by what sets them apart."""
    assert short_names(["/a/b/x.jsonl", "/a/c/y.jsonl"]) == {"/a/b/x.jsonl": "x.jsonl", "/a/c/y.jsonl": "y.jsonl"}
    assert short_names(["/a/b/x.jsonl", "/a/c/x.jsonl"]) == {"/a/b/x.jsonl": "b/x.jsonl", "/a/c/x.jsonl": "c/x.jsonl"}
    assert short_names(["x.jsonl", "c/x.jsonl"]) == {"x.jsonl": "x.jsonl", "c/x.jsonl": "c/x.jsonl"}
    assert short_names([]) == {}


def test_shares_of_counts() -> None:
    """Counts become shares, shares stay, and lists name their share last."""
    assert ranked({"json": 1, "plain": 3}) == [("plain", 0.75), ("json", 0.25)]
    assert ranked({"en": 0.9, "de": 0.1}) == [("en", 0.9), ("de", 0.1)]
    assert ranked([("sure, i can", 20, 0.2), ("of course", 30, 0.3)]) == [("of course", 0.3), ("sure, i can", 0.2)]
    assert ranked(None) == []


def test_no_request_and_no_foreign_markup(page: Page) -> None:
    """Nothing names another address; no script, style or handler stands on an element."""
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert "style" not in attributes, tag
    types = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert types == ["application/json", None, None]


def test_hostile_documents_are_text(page: Page) -> None:
    """Markup and control characters in any text of the document or its rows end as text: no element comes from them."""
    source = render_data_report(*make_hostile())
    hostile = Page(source)
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in page.elements}
    assert [tag for tag, _ in hostile.elements].count("script") == 3
    assert hostile.text.count(HOSTILE[1]) > 40
    assert not any("onerror" in attributes or "onmouseover" in attributes for _, attributes in hostile.elements)
    assert "\u202e" not in source
    found = re.search(r'<script type="application/json" id="chart-data">(.*?)</script>', source, re.DOTALL)
    assert found and "<" not in found[1] and "harmed" not in found[1]
    assert {"funnel_rows", "funnel_tokens", "lengths", "turns"} == set(json.loads(found[1]))


def test_a_large_check_stays_small() -> None:
    """Thousands of rows and places stay under the size of a page, every finding keeps rows, and it is said."""
    document, rows = make_document()
    long = "<" * 3000
    many = [{**rows[0], "line": at, "flags": [], "pieces": [[long, 0], [long, 1]]} for at in range(1000)]
    many += [{**rows[0], "line": 5000, "flags": ["D10"], "pieces": [["the only one", 1]]}]
    places = [{"file": TRAIN, "line": at, "text": long} for at in range(1000)]
    document["findings"] = [{**finding, "examples": places} for finding in document["findings"] * 50]
    cluster = document["duplicates"]["clusters"][0]
    document["duplicates"]["clusters"] = [{**cluster, "places": places, "text": long}] * 1000
    document["leaks"] = [{**document["leaks"][0], "text": long}] * 1000
    source = render_data_report(document, many)
    assert len(source.encode()) < MAX_BYTES
    text = words_of(Page(source))
    assert "the only one" in text
    assert re.search(r"The first \d+ of 1,001 rows to look at are on this page", text)
    assert "The first 200 of 250 findings" in text
    assert "The first 50 of 1,000 groups" in text

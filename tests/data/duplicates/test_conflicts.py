"""Conflicts: one question, several answers."""

from __future__ import annotations

from pathlib import Path

from attune.data.duplicates.conflicts import found
from attune.data.lint.catalog import Found
from attune.types import Example
from tests.data.duplicates.real import load
from tests.data.duplicates.rows import chat, place_of, store_of, text

LONG = "this is a long answer of ten words, {} as such"


def conflicts(rows: list[Example], parts: list[str] | None = None) -> list[Found]:
    """What is found among training rows."""
    return found(store_of(rows), parts or ["train"] * len(rows), place_of)


def test_two_labels_for_one_question_are_a_conflict_of_all_its_rows() -> None:
    """Nobody knows which one is right, so every row is named with one that says otherwise."""
    rows = [chat("Is it red?", "yes"), chat("is it  red?", "No"), chat("Is it blue?", "no"), chat("Is it red?", "Yes.")]
    (conflict,) = conflicts(rows + [chat(f"other {number}", "x") for number in range(200)])
    assert (conflict.name, list(conflict.rows), conflict.severity) == ("conflict", [0, 1, 3], "warning")
    assert conflict.texts == {0: "another answer than f:2", 1: "another answer than f:1", 3: "another answer than f:2"}
    expected = "1 question with contradicting answers; the most rows, 3 with 2 answers, ask that of f:1."
    assert conflict.detail == expected
    (open_answers,) = conflicts(rows)
    assert open_answers.severity == "warning", "answers that no other row gives may both be meant"
    labelled = [*rows, *(chat(f"is {number} odd?", ("yes", "no")[number % 2]) for number in range(10))]
    (grave,) = conflicts(labelled)
    assert grave.severity == "error", "more than one row in twenty contradicts another one with a label"


def test_case_and_punctuation_contradict_nothing() -> None:
    """Yes, YES and yes. are one answer; two emoticons without words are two."""
    assert conflicts([chat("Is it?", answer) for answer in ("yes", "YES", "yes.")]) == []
    assert [list(result.rows) for result in conflicts([chat("Mood?", ":)"), chat("Mood?", ":(")])] == [[0, 1]]


def test_objects_contradict_each_other_however_long() -> None:
    """Two different JSON objects for one text are a conflict."""
    rows = [chat("Extract.", f'{{"text": "{LONG.format(word)}"}}') for word in ("one", "two")]
    assert [result.name for result in conflicts(rows)] == ["conflict"]


def test_long_answers_are_variety() -> None:
    """They are told, but as information, and the first one is not counted."""
    rows = [chat("Tell me.", LONG.format(word)) for word in ("one", "two", "one", "three")]
    (several,) = conflicts(rows)
    assert (several.name, list(several.rows), several.severity) == ("several-answers", [1, 3], None)


def test_the_whole_context_decides() -> None:
    """Another system prompt, other tools or another set make no conflict, and text asks nothing."""
    row = chat("Is it red?", "yes")
    rows = [row, chat("Is it red?", "no", system="Lie."), text("yes"), text("no")]
    rows.append(Example(row.place, chat("Is it red?", "no").messages, tools=({"name": "see"},)))
    assert conflicts(rows) == []
    assert conflicts([row, chat("Is it red?", "no")], ["train", "valid"]) == []


def test_punctuation_makes_no_other_question() -> None:
    """Questions that differ in a hyphen or a mark alone are one question; a minus sign counts."""
    rows = [chat("Has my top up gone through?", "yes"), chat("Has my top-up gone through", "no")]
    assert [list(result.rows) for result in conflicts(rows)] == [[0, 1]]
    assert conflicts([chat("What is 7-5?", "2"), chat("What is 7+5?", "12"), chat("What is 7 5?", "?")]) == []


def test_known_answers_on_real_data(shared: Path) -> None:
    """BANKING77 has one question under two labels; GSM8K contradicts itself nowhere."""
    (labels,) = conflicts(load(shared, "banking77_train.csv"))
    assert (labels.name, len(labels.rows)) == ("conflict", 2)
    assert conflicts(load(shared, "gsm8k_train.jsonl")) == []


def test_every_contradiction_of_real_data_is_found(shared: Path) -> None:
    """All rows of T0 whose prompt, letter by letter, has two different answers of one to five words are named."""
    rows = load(shared, "t0_train_50k_clean.jsonl")[:8000]
    answers: dict[str, dict[str, list[int]]] = {}
    for number, row in enumerate(rows):
        question, answer = (message.content for message in row.messages)
        said = " ".join("".join(letter if letter.isalnum() else " " for letter in answer.lower()).split())
        if 1 <= len(said.split()) <= 5:
            answers.setdefault(question, {}).setdefault(said, []).append(number)
    expected = {row for said in answers.values() if len(said) > 1 for numbers in said.values() for row in numbers}
    named = {result.name: set(result.rows) for result in conflicts(rows)}
    assert len(expected) > 20
    assert expected <= named["conflict"]

"""What rewording leaves alone: quoted words, code, JSON, and whatever an answer repeats or depends on."""

from __future__ import annotations

import pytest

from attune.data.augment_limits import changed_span, is_english, kept_spans, may_be_edited, may_be_framed, may_change


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Define `do not. Go` now", "`do not. Go`"),
        ("Run\n```\na = 1\n\nb. C\n```", "```\na = 1\n\nb. C\n```"),
        ('Say "No. Never" twice', '"No. Never"'),
        ("Read \u201cNo. Never\u201d twice", "\u201cNo. Never\u201d"),
        ("Read the word 'not. A' twice", "'not. A'"),
        ('Parse {"a": [1, 2]} please', '{"a": [1, 2]}'),
        ("Sort [3, 1, 2", "[3, 1, 2"),
        ('Say "No. Never', '"No. Never'),
        ("Open https://x.org/a.B now", "https://x.org/a.B"),
        ("Look at <b>this. One</b>", "<b>"),
        ("Answer:\n> quoted. Text\nand go", "> quoted. Text"),
    ],
)
def test_no_change_within(text: str, kept: str) -> None:
    """Every place within such a stretch is refused, replacing or putting in; words before the text are not."""
    start = text.index(kept)
    spans = kept_spans(text)
    for at in range(start + 1, start + len(kept)):
        assert not may_change(text, f"{text[:at]}\v{text[at:]}", spans, [])
        assert not may_change(text, f"{text[:at]}\v{text[at + 1 :]}", spans, [])
    assert may_change(text, f"Please {text}", spans, [])


def test_plain_words_may_change() -> None:
    """An apostrophe opens no quotation, and words outside of what is kept may change."""
    text = "It is Ann's and Bob's. Say \"x\" now"
    assert may_change(text, text.replace("s. Say", "s.  Say"), kept_spans(text), [])


def test_words_that_the_answer_repeats_stay() -> None:
    """A change is refused where an answer has the same words around it."""
    old, new = "He went home. She did not come.", "He went home.  She did not come."
    assert not may_change(old, new, [], ["As it says: He went home. She did not come."])
    assert may_change(old, new, [], ["He went home."])


@pytest.mark.parametrize(
    ("old", "new", "stretch"),
    [("abc", "abXc", (2, 2)), ("aab", "ab", (1, 2)), ("aXb", "aYYb", (1, 2)), ("same", "same", (4, 4))],
)
def test_changed_stretch(old: str, new: str, stretch: tuple[int, int]) -> None:
    """The stretch is the shortest one whose replacement makes the new text."""
    assert changed_span(old, new) == stretch


@pytest.mark.parametrize(
    ("text", "instructions", "answer"),
    [
        ("How are you?", ["Translate the user's text."], "Wie geht es dir?"),
        ("How are you?", [], "Comment allez-vous, et que faites-vous dans la maison avec les enfants ?"),
        ("How do I learn it?", [], "What is the best way to learn it?"),
        ("Which words are in this question?", [], "Six."),
        ("Write it down.", ["Repeat what the user says."], "Write it down."),
    ],
)
def test_material_is_not_framed(text: str, instructions: list[str], answer: str) -> None:
    """A text to be worked on gets no polite words around it, nor does a question about itself."""
    assert not may_be_framed(text, instructions, answer)


def test_requests_are_framed() -> None:
    """A request may be, also one that asks for another language, and under a system prompt that only sets the stage."""
    french = "Le chat est sur la table et il ne dort pas."
    assert may_be_framed("Translate into French: the cat", [], french)
    assert may_be_framed("Write a poem in French.", [], french)
    assert may_be_framed("Name three fruits.", ["You are a helpful assistant."], "apple, pear, plum")


def test_wording_that_counts_stays() -> None:
    """No word changes in a request about letters, spelling or a text to be corrected."""
    assert not may_be_edited(["How many letters are in: do not go."])
    assert not may_be_edited(["Fix the grammar.", "he do not go."])
    assert not may_be_edited(["Translate: I do not know."])
    assert may_be_edited(["You help customers.", "I do not know. My card is lost."])


def test_english_is_told_from_other_languages() -> None:
    """Little words decide; other languages are not taken for English."""
    assert is_english("I want my money back, and this is the second time.")
    assert not is_english("Ich will mein Geld, und das ist nicht das erste Mal.")
    assert not is_english("\u6211\u60f3\u77e5\u9053")

"""Words and keys: what counts as a word, what makes two rows equal."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.data.duplicates.codes import split_codes
from attune.data.duplicates.words import WordStore, canonical
from attune.data.lint.view import view
from attune.types import Example, Message, Place
from tests.data.duplicates.rows import chat, store_of, text


def words_of(content: str) -> list[int]:
    """The numbers of a text's words."""
    numbers, _ = split_codes(content, np.array([0, len(content)]))
    return [int(number) for number in numbers]


def spans(store: WordStore) -> list[list[int]]:
    """Each row's numbers, marks included."""
    words = store.words()
    return [words.flat[words.starts[row] : words.starts[row + 1]].tolist() for row in range(len(store))]


def test_case_and_punctuation_make_no_other_words() -> None:
    """Only letters, digits and signs count."""
    assert words_of("Hello, world!") == words_of("hello  WORLD")


def test_signs_figures_and_emoji_are_words() -> None:
    """Formulas that differ in a sign are different, and so are answers of one emoji."""
    assert len(words_of("1+2=3")) == 5
    assert words_of("a + b") != words_of("a * b")
    assert words_of("C#") != words_of("C")
    assert words_of("\U0001f600") != words_of("\U0001f621")


def test_figures_and_signs_are_marked_in_the_lowest_bit() -> None:
    """A word with a digit is odd, a plain one even."""
    assert [word & 1 for word in words_of("in 1999 x2 % one")] == [0, 1, 1, 1, 0]


def test_scripts_without_spaces_give_one_word_a_character() -> None:
    """Chinese, Japanese and Thai characters stand alone; combining marks stay with their letter."""
    assert len(words_of("你好世界")) == 4
    assert len(words_of("สวัสดี")) > 3
    assert len(words_of("नमस्ते दुनिया")) == 2
    assert words_of("\U00020000") != words_of("\U00020001")


def test_ascii_and_other_text_number_words_alike() -> None:
    """A word has one number, whatever stands beside it."""
    assert words_of("hello") == words_of("hello ñ")[:1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x02\x03"), max_size=30), max_size=8))
def test_a_row_has_the_same_words_alone_and_among_others(contents: list[str]) -> None:
    """What is computed for a chunk at once is what each row gives by itself."""
    together = spans(store_of(text(content) for content in contents))
    assert together == [spans(store_of([text(content)]))[0] for content in contents]


def test_rows_keep_their_order_over_many_flushes() -> None:
    """Long data is cut into chunks, and nothing moves; taking goes on after words were read."""
    rows = [chat(f"q{number} " + "word " * 4000, f"answer {number}") for number in range(150)]
    store = store_of(rows[:100])
    assert len(store.words().answer_at) == 100
    for number, row in enumerate(rows[100:], start=100):
        store.take(view(number, row))
    words = store.words()
    assert len(words.flat) == 150 * (2 + 4001 + 2) + 1
    at = words.starts[:-1] + 1
    assert words.flat[at].tolist() == [words_of(f"q{number}")[0] for number in range(150)]
    assert (words.flat[words.starts] == words.flat[-1]).all(), "every row begins with the row mark"


def test_keys_ignore_case_space_and_unicode_variants_but_not_roles() -> None:
    """Equal up to writing is equal; a system prompt is no user turn."""
    same = store_of([chat("What  is\nit?", "ＡＢＣ"), chat("what is it?", "abc")]).keys()
    assert same.row[0] == same.row[1]
    other = store_of([chat("be kind hello", "yes"), chat("hello", "yes", system="be kind")]).keys()
    assert other.context[0] != other.context[1]
    assert other.answer[0] == other.answer[1]


def test_tools_train_flags_and_call_arguments_count_but_call_ids_do_not() -> None:
    """What changes what is learned makes another row; the random id of a call does not."""

    def calling(identity: str, city: str, *, arguments_as_text: bool = False) -> Example:
        arguments = f'{{"city": "{city}"}}' if arguments_as_text else {"city": city}
        call = {"id": identity, "function": {"name": "weather", "arguments": arguments}}
        return Example(Place("f", 0, 0), (Message("user", "hi"), Message("assistant", "", tool_calls=(call,))))

    keys = store_of([calling("a", "Rome"), calling("b", "Rome", arguments_as_text=True), calling("a", "Bonn")]).keys()
    assert keys.row[0] == keys.row[1] != keys.row[2]
    assert keys.says_one_thing.all()
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    untrained = (turns[0], Message("assistant", "b", train=False), *turns[2:])
    with_tool = Example(Place("f", 0, 0), turns, tools=({"name": "t"},))
    rows = store_of([Example(Place("f", 0, 0), turns), Example(Place("f", 0, 0), untrained), with_tool]).keys().row
    assert len(set(rows.tolist())) == 3


def test_short_answers_and_objects_say_one_thing() -> None:
    """Two different ones of these contradict each other; two long texts need not."""
    long = "word " * 20
    keys = store_of([chat("q", "yes"), chat("q", long), chat("q", f'{{"a": "{long}"}}'), chat("q", "")]).keys()
    assert keys.says_one_thing.tolist() == [True, False, True, True]


def test_canonical_form_is_stable() -> None:
    """The canonical form of a canonical text is itself."""
    for sample in ("ﬃ ẞ İ", "  a\t b\u00a0c", "Ǆ"):
        assert canonical(canonical(sample)) == canonical(sample)


def test_an_empty_store_has_no_words() -> None:
    """No rows are no error."""
    store = WordStore()
    assert len(store.words().answer_at) == 0
    assert len(store.keys().row) == 0

"""Answers in another language: found in many languages, and never where the prompt asks for it or holds it."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from attune.data.coverage.language import Languages
from attune.data.coverage.tongues import are_alike, guess, script_of
from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.view import view
from attune.types import Example, Message, Place

QUESTIONS = {
    "en": "What is the best way to store potatoes in winter?",
    "de": "Wie lagert man Kartoffeln im Winter am besten?",
    "fr": "Comment conserver les pommes de terre en hiver ?",
    "es": "¿Cuál es la mejor forma de guardar patatas en invierno?",
    "it": "Qual è il modo migliore per conservare le patate in inverno?",
    "nl": "Hoe kun je aardappelen het beste bewaren in de winter?",
    "ru": "Как лучше всего хранить картофель зимой?",
    "zh": "冬天怎样储存土豆最好？",
    "ja": "冬にじゃがいもを保存する一番よい方法は何ですか。",
    "hi": "सर्दियों में आलू रखने का सबसे अच्छा तरीका क्या है?",
    "ar": "ما أفضل طريقة لتخزين البطاطس في الشتاء؟",
    "ko": "겨울에 감자를 보관하는 가장 좋은 방법은 무엇입니까?",
}
ANSWERS = {
    "en": "Keep them in a cool, dark and dry place, and not in the fridge, because the starch turns into sugar there.",
    "de": "Am besten kühl, dunkel und trocken, aber nicht im Kühlschrank, weil die Stärke dort zu Zucker wird.",
    "fr": "Gardez-les dans un endroit frais et sec, mais pas au frigo, car l'amidon s'y transforme en sucre.",
    "es": "Lo mejor es guardarlas en un lugar fresco y seco, pero no en la nevera, porque el almidón se hace azúcar.",
    "it": "Conservale in un luogo fresco e asciutto, ma non in frigorifero, perché l'amido si trasforma in zucchero.",
    "nl": "Bewaar ze op een koele en droge plaats, maar niet in de koelkast, want daar wordt het zetmeel suiker.",
    "ru": "Лучше всего в прохладном и сухом месте, но не в холодильнике: крахмал там превращается в сахар.",
    "zh": "最好放在阴凉、黑暗、干燥的地方，但不要放在冰箱里，因为淀粉会在那里变成糖。",
    "ja": "涼しくて暗い乾燥した場所に置いてください。冷蔵庫ではでんぷんが糖に変わるので避けましょう。",
    "hi": "उन्हें ठंडी, अंधेरी और सूखी जगह पर रखें, लेकिन फ्रिज में नहीं, क्योंकि वहाँ स्टार्च चीनी में बदल जाता है।",
    "ar": "احفظها في مكان بارد ومظلم وجاف، ولكن ليس في الثلاجة، لأن النشا يتحول هناك إلى سكر.",
    "ko": "서늘하고 어둡고 건조한 곳에 두되 냉장고에는 넣지 마세요. 전분이 당으로 변하기 때문입니다.",
}


def found(*rows: tuple[str, str], system: str = "") -> list[Found]:
    """Return what the rule finds in rows of question and answer."""
    languages = Languages(DEFAULT)
    before = (Message("system", system),) if system else ()
    for number, (question, answer) in enumerate(rows):
        messages = (*before, Message("user", question), Message("assistant", answer))
        languages.take(view(number, Example(Place("rows.jsonl", number + 1, 0), messages)))
    return languages.found()


def test_every_pair_of_languages_is_told_apart() -> None:
    """A question in one language and an answer in another is found, in all 132 pairs; the languages are named."""
    pairs = list(permutations(QUESTIONS, 2))
    finding = found(*[(QUESTIONS[one], ANSWERS[other]) for one, other in pairs])
    rows = [row for each in finding for row in each.rows]
    missed = [pair for number, pair in enumerate(pairs) if number not in rows]
    assert missed == []
    at = pairs.index(("de", "en"))
    assert finding[0].texts[at].startswith('asked in German, answered in English: "Keep them')
    assert max(map(len, finding[0].texts.values())) <= 120


def test_answers_in_the_language_of_the_question_pass() -> None:
    """Nothing is said about rows in one language, whichever it is."""
    assert found(*[(QUESTIONS[language], ANSWERS[language]) for language in QUESTIONS]) == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Translate this for my grandmother, please: keep them in a cool place.", ANSWERS["de"]),
        ("Where should the potatoes be kept in winter? Answer in French.", ANSWERS["fr"]),
        ("Beantworte auf Englisch: " + QUESTIONS["de"], ANSWERS["en"]),
        ("请翻译：把土豆放在阴凉的地方。", ANSWERS["en"]),
        ("Why does the author advise against the fridge?\n\n" + ANSWERS["de"], ANSWERS["de"]),
        ("Was steht in diesem Text und warum?\n\n" + ANSWERS["en"], ANSWERS["en"]),
    ],
)
def test_a_prompt_that_asks_for_another_language_or_holds_it_is_no_fault(question: str, answer: str) -> None:
    """Translations, a named language and questions about a text in the answer's language are left alone."""
    assert found((question, answer)) == []


def test_a_system_prompt_may_name_the_language() -> None:
    """A system prompt that says which language to answer in is heard."""
    assert found((QUESTIONS["de"], ANSWERS["en"]), system="Always answer in English.") == []
    assert len(found((QUESTIONS["de"], ANSWERS["en"]), system="Be friendly.")) == 1


@pytest.mark.parametrize(
    "answer",
    [
        '{"produkt": "Kartoffeln", "ort": "im Keller und nicht im Haus", "temperatur": 8}',
        "def lagere(kartoffeln):\n    return [k for k in kartoffeln if k.ist_gut and not k.ist_alt]",
        "Berlin, Madrid, Oslo",
        "12 * 17 = 204, 204 / 2 = 102, 102 - 2 = 100, 100 / 4 = 25, 25 + 1 = 26, 26 * 2 = 52",
        "Gut",
    ],
)
def test_code_figures_and_labels_are_of_no_language(answer: str) -> None:
    """What is no prose is not judged."""
    assert found((QUESTIONS["en"], answer)) == []


def test_a_language_that_most_rows_are_answered_in_is_the_task() -> None:
    """Where most questions in one language are answered in another, it is a note; a stray beside it is a warning."""
    rows = [(f"{QUESTIONS['de']} Und bei {degrees} Grad?", ANSWERS["en"]) for degrees in range(30)]
    meant, stray = (QUESTIONS["de"], ANSWERS["en"]), (QUESTIONS["en"], ANSWERS["fr"])
    warning, note = found(*rows, meant, stray)
    assert (list(warning.rows), warning.severity) == ([31], None)
    assert (list(note.rows), note.severity) == (list(range(31)), "info")
    assert "31 asked in German, answered in English" in note.detail


def test_suspects_are_judged_in_the_end_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many suspects wait for the language model, the same rows are named with the same words."""
    rows = [*zip(QUESTIONS.values(), reversed(ANSWERS.values()), strict=True), (QUESTIONS["en"], ANSWERS["en"])]
    late = found(*rows)
    monkeypatch.setattr("attune.data.coverage.language._MOST_WAITING", 0)
    assert [len(each.rows) for each in late] == [12]
    assert found(*rows) == late


def test_every_turn_is_compared_with_its_question() -> None:
    """An answer in the middle of a conversation is judged, too."""
    turns = [("user", QUESTIONS["en"]), ("assistant", ANSWERS["de"]), ("user", "Thank you, and why is that so?")]
    turns.append(("assistant", ANSWERS["en"]))
    languages = Languages(DEFAULT)
    languages.take(view(0, Example(Place("x", 1, 0), tuple(Message(role, text) for role, text in turns))))
    assert [list(each.rows) for each in languages.found()] == [[0]]


def test_script_and_little_words() -> None:
    """The cheap guess knows the languages of its table by their own sentences, and says nothing without words."""
    assert {language: guess(text) for language, text in ANSWERS.items()} == {language: language for language in ANSWERS}
    assert guess("x = [1, 2, 3]") == ""
    assert script_of("The angle α is β/2 in this drawing") == ""
    assert are_alike("da", "no") and not are_alike("de", "en")


REAL = ["llamafactory_alpaca_en_demo.json", "gpteacher_codegen.json", "llamafactory_identity.json"]


@pytest.mark.parametrize("name", REAL)
def test_real_sets_in_one_language_are_clean(name: str, shared: Path) -> None:
    """Nothing is said about real sets whose every row was written in the language of its question."""
    rows = json.loads((shared / "data/sft" / name).read_text(encoding="utf-8"))
    answers = [row.get("output") or row.get("response") or "" for row in rows]
    pairs = [(f"{row['instruction']}\n{row['input']}", str(answer)) for row, answer in zip(rows, answers, strict=True)]
    assert found(*pairs) == []

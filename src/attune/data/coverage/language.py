"""Answers in another language than the prompt: cheap signs on every row, a language model on the suspects only."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from attune.data.coverage.tongues import (
    DENSE,
    LITTLE_WORDS,
    SAMPLE,
    LanguageModel,
    are_alike,
    guess,
    has_signs,
    hits,
    name_of,
    script_of,
)
from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import Thresholds
from attune.data.lint.view import RowView
from attune.types import Message

_SHOWN = 70  # characters of an answer
_PROMPT_READ = 20_000  # characters of a prompt in which words of the answer's language are looked for
_MOST_WAITING = 1_000_000  # characters of suspects that wait for the language model, which takes half a second to open

# A prompt that speaks of a language or of translating may well be answered in another one.
_OF_LANGUAGES = (
    "translat language lingual english german french spanish italian portuguese dutch swedish danish "
    "norwegian finnish polish czech hungarian romanian turkish russian ukrainian greek arabic hebrew persian "
    "farsi hindi urdu bengali chinese mandarin cantonese japanese korean vietnamese thai indonesian malay "
    "tagalog latin swahili catalan esperanto übersetz sprache englisch deutsch französisch spanisch traduc "
    "traduz tradui tradurre anglais allemand français espagnol langue inglés inglese inglês alemán francés "
    "francese francês español idioma lingua língua vertaal vertaling engels översätt engelska oversæt "
    "oversett przetłumacz angielsk přelož anglicky fordít angolul çevir ingilizce terjemah inggris перевед "
    "перевод англий немец француз 翻译 翻譯 翻訳 译 英文 英语 英語 中文 日文 日本語 法语 德语 번역 영어 "
    "한국어 ترجم الإنجليزية अनुवाद अंग्रेज"
)
_SPEAKS_OF_LANGUAGES = tuple(_OF_LANGUAGES.split())
_FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+", re.DOTALL)
_NO_WORD = re.compile(r"[^\w\s.,'’:!?。，、！？]|[\d_]")
_NOT_PROSE = ("{", "[", "<", "```", "def ", "import ", "class ", "SELECT ", "#!", "|")


class Languages:
    """Rule D13: takes rows in turn and keeps those whose answer is in another language than their prompt."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._model: LanguageModel | None = None
        self._asked: Counter[str] = Counter()  # rows by the language of their prompt, as far as little words tell
        self._seen: dict[int, tuple[str, str, str]] = {}  # row -> language asked in, answered in, the answer
        self._suspects: list[tuple[int, str, str, str]] = []  # row, all that was said before, question, answer
        self._waiting = 0  # characters of them

    def take(self, row: RowView) -> None:
        """Look at a row; some 10 us where prompt and answer are plainly in one language."""
        messages = row.example.messages
        if len(messages) == 2:
            if row.question:
                self._compare(row.number, messages[:1], messages[1])
            return
        for at, message in enumerate(messages):
            if message.role == "assistant" and message.train is not False and message.content:
                self._compare(row.number, messages[:at], message)

    def absorb(self, part: Languages, base: int) -> None:
        """Add the rows that another one took, which follow; `base`: the number of the first of them."""
        self._asked.update(part._asked)
        self._seen |= {number + base: seen for number, seen in part._seen.items()}
        for number, prompt, asked, text in part._suspects:
            self._suspect(number + base, prompt, asked, text)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to absorb this one: not the model."""
        return self.__dict__ | {"_model": None}

    def found(self) -> list[Found]:
        """Return the rows whose answer is in another language: a finding for the strays, one for what seems meant."""
        self._judge_suspects()
        pairs = Counter((asked, answered) for asked, answered, _ in self._seen.values())
        limits = self._thresholds
        meant = {
            pair
            for pair, rows in pairs.items()
            if rows >= max(limits.language_task_rows, limits.language_task_share * self._asked[pair[0]])
        }
        strays = [number for number, seen in self._seen.items() if seen[:2] not in meant]
        wanted = [number for number, seen in self._seen.items() if seen[:2] in meant]
        found = []
        if strays:
            found.append(self._finding(strays, "."))
        if wanted:
            found.append(self._finding(wanted, ", as most rows asked so: it seems to be the task.", is_meant=True))
        return found

    def _finding(self, rows: list[int], end: str, *, is_meant: bool = False) -> Found:
        rows.sort()
        pairs = Counter(self._seen[number][:2] for number in rows).most_common(3)
        named = [f"{count} asked in {name_of(asked)}, answered in {name_of(said)}" for (asked, said), count in pairs]
        texts = {number: self._text(number) for number in rows[: self._thresholds.most_examples]}
        return Found("language", rows, texts, "; ".join(named) + end, "info" if is_meant else None)

    def _text(self, number: int) -> str:
        asked, answered, answer = self._seen[number]
        return f'asked in {name_of(asked)}, answered in {name_of(answered)}: "{answer}"'

    def _compare(self, number: int, before: tuple[Message, ...], answer: Message) -> None:
        """Suspect a row whose answer may be in another language than all that was said before it."""
        asked = next((turn.content for turn in reversed(before) if turn.role == "user"), "")
        text = answer.content
        if not asked:
            return
        prompt_guess = guess(asked)
        if prompt_guess:
            self._asked[prompt_guess] += 1
        if len(text) < self._thresholds.language_characters and not script_of(text):
            return
        answer_guess = guess(text)
        if prompt_guess == answer_guess:
            return  # the usual case, and the case of two texts whose words tell nothing
        if not answer_guess and has_signs(text[:SAMPLE], prompt_guess):
            return  # too few little words, as in a sum or a list, but they are the prompt's
        if not prompt_guess and has_signs(asked[:SAMPLE], answer_guess):
            return
        if text.lstrip().startswith(_NOT_PROSE) or not _is_prose(text[:SAMPLE]):
            return
        prompt = "\n".join(turn.content for turn in before)[:_PROMPT_READ]
        lowered = prompt.lower()
        if any(name in lowered for name in _SPEAKS_OF_LANGUAGES):
            return
        self._suspect(number, prompt, asked, text)

    def _suspect(self, number: int, prompt: str, asked: str, text: str) -> None:
        self._suspects.append((number, prompt, asked, text))
        self._waiting += len(prompt) + len(asked) + len(text)
        if self._waiting > _MOST_WAITING:
            self._judge_suspects()

    def _judge_suspects(self) -> None:
        """Note the suspects that are surely answered in another language; of a row the first such answer."""
        for number, prompt, asked, text in self._suspects:
            pair = self._judge(prompt, asked, text) if number not in self._seen else None
            if pair:
                shown = " ".join(text[: 2 * _SHOWN].split())
                self._seen[number] = (*pair, shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}...")
        self._suspects, self._waiting = [], 0

    def _judge(self, prompt: str, asked: str, answer: str) -> tuple[str, str] | None:
        """Return the languages of prompt and answer where they surely differ."""
        prose = _FENCED.sub(" ", answer)
        answered = self._language(prose)
        if not answered:
            return None
        spoken = self._language(_FENCED.sub(" ", asked))
        if not spoken or are_alike(spoken, answered):
            return None
        if spoken in LITTLE_WORDS and hits(prose, spoken, answered) > max(2, hits(prose, answered, spoken) // 3):
            return None  # the answer speaks the prompt's language, too
        if hits(prompt, answered, spoken) >= self._thresholds.language_held_words:
            return None  # the prompt holds a text in the answer's language: it may be a question about it
        return spoken, answered

    def _language(self, text: str) -> str:
        """Return the language of a text where it is sure: model and little words agree, or the model is very sure."""
        limits, told = self._thresholds, guess(text)
        limit = limits.language_characters
        letters = sum(map(str.isalpha, text[:SAMPLE]))
        if letters < (limit // 6 if told in DENSE else limit // 2) or not _is_prose(text[:SAMPLE]):
            return ""
        if self._model is None:
            self._model = LanguageModel()
        language, probability = self._model.judge(text)
        if told:
            return language if are_alike(told, language) else ""
        has_words = language in LITTLE_WORDS and hits(text, language) >= 1
        is_sure = probability >= (limits.language_likely if has_words else limits.language_probability)
        return language if is_sure and (has_words or language not in LITTLE_WORDS) else ""


def _is_prose(text: str) -> bool:
    """Return whether a text is mostly letters and blanks, not code, figures or a table."""
    return bool(script_of(text)) or len(_NO_WORD.sub("", text)) * 10 >= 9 * len(text)

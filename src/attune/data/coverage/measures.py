"""What a data set covers: turns, lengths, languages, variety; from counts of all rows and a sample of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from attune.data.coverage.sample import Sample, Sampled
from attune.data.coverage.tongues import LanguageModel, guess
from attune.data.coverage.wording import compression_ratio, distinct_shares, split_words
from attune.data.lint.thresholds import Thresholds
from attune.data.lint.view import RowView

_DISTINCT_WORDS = 20_000
_LANGUAGE_ROWS = 1000  # of the sample, for the mix of languages
_UNCLEAR_SHARE = 0.05  # so many texts may stay unclear by script and little words before the language model is loaded
_FEWEST_LETTERS = 20  # a shorter text is of no language
_MOST_TURNS = 20  # longer conversations are counted as one kind
_CLUSTER_ROWS = 1000  # of the sample, for the variety of the prompts
_HASHED_WORDS = 8192


class Coverage:
    """Takes every row in turn, some 3 us each; says what the data set covers."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._sample = Sample(thresholds.sample_rows)
        self._thresholds = thresholds
        self._rows = self._with_system = self._with_tools = 0
        self._turns: Counter[int] = Counter()
        self._longest_question = self._longest_answer = ""

    def take(self, row: RowView) -> None:
        """Count a row, and keep it in the sample if its content falls there."""
        question, answer, messages = row.question, row.answer, row.example.messages
        self._rows += 1
        self._turns[1 if len(messages) == 2 else sum(message.role == "assistant" for message in messages)] += 1
        if messages and messages[0].role == "system":
            self._with_system += 1
        if row.example.tools or row.tool_calls:
            self._with_tools += 1
        if len(question) > len(self._longest_question):
            self._longest_question = question
        if len(answer) > len(self._longest_answer):
            self._longest_answer = answer
        self._sample.take(row)

    def absorb(self, part: Coverage, base: int) -> None:
        """Add the rows that another one took, which follow; `base`: the number of the first of them."""
        self._rows += part._rows
        self._with_system += part._with_system
        self._with_tools += part._with_tools
        self._turns.update(part._turns)
        self._longest_question = max(self._longest_question, part._longest_question, key=len)
        self._longest_answer = max(self._longest_answer, part._longest_answer, key=len)
        self._sample.absorb(part._sample, base)

    @property
    def sample(self) -> list[tuple[int, str, str]]:
        """Up to `sample_rows` rows, all of different content, by number: number, question, answer."""
        return [(kept.number, kept.question, kept.answer) for kept in self._sample.by_number()]

    def document(
        self, *, formats: Mapping[str, int] | None = None, openers: Sequence[Any] | None = None
    ) -> dict[str, Any]:
        """Return what the data set covers, as JSON can hold it.

        rows, system_prompt_share and tools_share count all rows, turns too (answers of a row: rows). words (5 %, 50 %,
        95 % of rows have at most so many; the longest is exact), distinct_1 and distinct_2 (shares of different words
        and pairs among the first `distinct_words` words of answers), compression_ratio, effective_clusters (of
        `cluster_rows` prompts) and languages (shares) are measured on the sample, whose size is `sampled`.
        """
        sampled = self._sample.by_hash()
        answers = [kept.answer for kept in sampled]
        prompts = [kept.question or kept.answer for kept in sampled]
        distinct_1, distinct_2, words = distinct_shares(answers, _DISTINCT_WORDS)
        weights = np.array([kept.rows for kept in sampled])
        return {
            "rows": self._rows,
            "sampled": len(sampled),
            "turns": {_turns_name(turns): rows for turns, rows in sorted(self._cut_turns().items())},
            "words": {
                "question": word_counts([kept.question for kept in sampled], weights, self._longest_question),
                "answer": word_counts(answers, weights, self._longest_answer),
            },
            "formats": dict(formats or {}),
            "openers": list(openers or ()),
            "distinct_1": distinct_1,
            "distinct_2": distinct_2,
            "distinct_words": words,
            "compression_ratio": compression_ratio(answers),
            "effective_clusters": effective_clusters(prompts[:_CLUSTER_ROWS]),
            "cluster_rows": min(len(prompts), _CLUSTER_ROWS),
            "languages": language_mix(sampled[:_LANGUAGE_ROWS]),
            "system_prompt_share": self._with_system / max(1, self._rows),
            "tools_share": self._with_tools / max(1, self._rows),
        }

    def _cut_turns(self) -> Counter[int]:
        counts: Counter[int] = Counter()
        for turns, rows in self._turns.items():
            counts[min(turns, _MOST_TURNS)] += rows
        return counts


def _turns_name(turns: int) -> str:
    return f"{turns}+" if turns == _MOST_TURNS else str(turns)


def word_counts(texts: Sequence[str], weights: np.ndarray, longest: str) -> dict[str, int]:
    """Return the words of a text that 5, 50 and 95 % of the rows do not exceed, and those of the longest.

    weights: [texts], how many rows have each text.
    """
    if not texts:
        return {"p5": 0, "p50": 0, "p95": 0, "max": 0}
    counts = np.array([len(split_words(text)) for text in texts])
    order = np.argsort(counts, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    at = {f"p{percent}": int(counts[order[np.searchsorted(reached, percent / 100)]]) for percent in (5, 50, 95)}
    return {**at, "max": max(int(counts.max()), len(split_words(longest)))}


def language_mix(rows: Sequence[Sampled]) -> dict[str, float]:
    """Return the share of rows for each language of what is asked and said, greatest first.

    "unclear" are code, figures and texts too short to tell. The language model is loaded only where script and little
    words leave more than one row in twenty unclear.
    """
    counts: Counter[str] = Counter()
    unclear = []
    for row in rows:
        language = guess(row.answer) or guess(row.question)
        if language:
            counts[language] += row.rows
        else:
            unclear.append(row)
    total = sum(row.rows for row in rows)
    model = LanguageModel() if sum(row.rows for row in unclear) > _UNCLEAR_SHARE * total else None
    for row in unclear:
        counts[_told_by(model, row)] += row.rows
    return {language: count / total for language, count in counts.most_common()}


def _told_by(model: LanguageModel | None, row: Sampled) -> str:
    text = f"{row.question}\n{row.answer}"
    if model is None or sum(map(str.isalpha, text[:400])) < _FEWEST_LETTERS:
        return "unclear"
    language, probability = model.judge(text)
    return language if probability >= 0.9 and language != "zxx" else "unclear"


def effective_clusters(prompts: Sequence[str]) -> float:
    """Return how many prompts without a word in common would be as varied as these; from 1 to their number.

    The exponential of the entropy of the eigenvalues of their cosine similarities (words weighted by rarity): a count
    of clusters for which nobody chose a number of clusters. It grows with the number of prompts: compare it only
    between equally many. Source: Friedman and Dieng 2023, "The Vendi Score", arXiv 2210.02410.
    """
    if not prompts:
        return 0.0
    counts = np.zeros((len(prompts), _HASHED_WORDS), dtype=np.float32)
    for row, prompt in zip(counts, prompts, strict=True):
        buckets = [xxhash.xxh32_intdigest(word.encode()) % _HASHED_WORDS for word in split_words(prompt)]
        row[:] = np.bincount(np.array(buckets, dtype=np.int64), minlength=_HASHED_WORDS)
    held = (counts > 0).sum(axis=0)
    rarity = (np.log((1 + len(prompts)) / (1 + held)) + 1).astype(np.float32)
    vectors = np.log1p(counts) * rarity
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    eigenvalues = np.linalg.eigvalsh((vectors @ vectors.T).astype(np.float64))
    shares = eigenvalues[eigenvalues > 1e-9] / eigenvalues.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))

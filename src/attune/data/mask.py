"""Which tokens of a row are learned, proved token by token: decoded, they are the answer and its terminator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from attune.data.template import ChatTemplate, Rendered, markup_of
from attune.data.tokenizer import Tokenizer
from attune.errors import TemplateError
from attune.types import Encoded, Example, Message, Place


class Span(NamedTuple):
    """A learned stretch of a rendered text, and what its tokens must say."""

    start: int
    end: int
    border: str
    expected: str


class Draft(NamedTuple):
    """A row being encoded: its ids and the token range of each learned span."""

    example: Example
    rendered: Rendered
    spans: tuple[Span, ...]
    ids: list[int]
    ranges: tuple[tuple[int, int], ...]


class Masker:
    """Turns examples into tokens and learned marks for one template and mask mode, counting what it met on the way."""

    def __init__(self, template: ChatTemplate, mask: str) -> None:
        self.template, self.mask = template, mask
        self.tokenizer: Tokenizer = template.tokenizer
        self.with_controls: list[Place] = []
        self.in_parts: list[Place] = []
        self.lossy: list[Place] = []
        self.rewritten: list[Place] = []
        self._clean_borders: dict[tuple[str, str], bool] = {}

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return examples as tokens with their learned marks, verified.

        Raises: TemplateError naming the first row whose learned tokens do not say its answer.
        """
        rendered = [self.template.render(example) for example in examples]
        return self.finish(examples, rendered, self.encode_texts(rendered))

    def encode_texts(self, rendered: Sequence[Rendered]) -> list[Encoding]:
        """Return the tokenizer's encodings of whole texts; lets other threads run meanwhile."""
        encodings: list[Encoding] = self.tokenizer.backend.encode_batch(
            [row.text for row in rendered], add_special_tokens=False
        )
        return encodings

    def finish(
        self, examples: Sequence[Example], rendered: Sequence[Rendered], encodings: Sequence[Encoding]
    ) -> list[Encoded]:
        """Return rows with their learned marks from the encodings of their texts, verified."""
        drafts = [self._draft(*row) for row in zip(examples, rendered, encodings, strict=True)]
        drafts = self._verify(drafts)
        return [self._to_encoded(draft) for draft in drafts]

    def _draft(self, example: Example, rendered: Rendered, encoding: Encoding) -> Draft:
        """Return a row with the token ranges of its learned spans; in parts where whole text would not do."""
        spans = self._learned_spans(example, rendered)
        if self._holds_controls(example, rendered):
            self.with_controls.append(example.place)
            return self._in_parts(example, rendered, spans)
        if example.text is not None or self.mask == "all":
            return Draft(example, rendered, spans, encoding.ids, ((0, len(encoding)),))
        ranges = []
        for span in spans:
            reach = _token_range(encoding, span, len(rendered.text))
            if reach is None:
                self.in_parts.append(example.place)
                return self._in_parts(example, rendered, spans)
            ranges.append(reach)
        ids: list[int] = encoding.ids
        for span, (first, _) in zip(spans, ranges, strict=True):
            if not self._is_clean_border(rendered.text, span, ids[:first]):
                self.in_parts.append(example.place)
                return self._in_parts(example, rendered, spans)
        return Draft(example, rendered, spans, ids, tuple(ranges))

    def _learned_spans(self, example: Example, rendered: Rendered) -> tuple[Span, ...]:
        """Return the stretches of the text that the mask mode and the messages' own flags select."""
        if example.text is not None or self.mask == "all":
            return (Span(0, len(rendered.text), "", rendered.text),)
        last = rendered.turns[-1].message if rendered.turns else -1
        turns = {turn.message: turn for turn in rendered.turns}
        spans = []
        for number, message in enumerate(example.messages):
            by_mode = message.role == "assistant" and (self.mask != "last" or number == last)
            if not (by_mode if message.train is None else message.train) or message.weight == 0:
                continue
            turn = turns.get(number)
            if turn is None:
                spans.append(self._context_span(example, rendered, number))
                continue
            if turn.is_changed:
                raise TemplateError(self._changed_text(example, number, number == last))
            if number == last and not turn.expected.endswith(self.template.terminator):
                raise TemplateError(
                    f"{example.place} chat template {self.template.name} does not end the last answer with {self.template.terminator!r}."
                )
            if turn.is_rewritten:
                if number == last:
                    raise TemplateError(self._rewritten_text(example))
                self.rewritten.append(example.place)
            spans.append(Span(turn.start, turn.end, turn.border, turn.expected))
        return tuple(spans)

    def _context_span(self, example: Example, rendered: Rendered, number: int) -> Span:
        """Return the content of a turn that is no answer but has train = true."""
        if rendered.contents is None:
            raise TemplateError(
                f"{example.place} turn {number + 1} has train = true, but chat template {self.template.name} changes its text."
            )
        start, end = rendered.contents[number]
        return Span(
            start,
            end,
            "",
            example.messages[number].content.strip()
            if end - start < len(example.messages[number].content)
            else example.messages[number].content,
        )

    def _changed_text(self, example: Example, number: int, is_last: bool) -> str:
        text = f"{example.place} turn {number + 1}: chat template {self.template.name} does not show the whole answer"
        if is_last:
            return f"{text}, so it cannot be learned.\nUse another template with data.template."
        return f'{text} once other turns follow (it rewrites history).\nLearn the last answer only with data.mask = "last", or use another template.'

    def _rewritten_text(self, example: Example) -> str:
        return (
            f"{example.place} chat template {self.template.name}: the text before the answer is not what its generation prompt shows.\n"
            "The model would be asked otherwise than it was taught. Use another template with data.template."
        )

    def _holds_controls(self, example: Example, rendered: Rendered) -> bool:
        """Return whether a row's own words hold the string of a control token."""
        holds = self.tokenizer.holds_control
        if example.text is not None:
            return holds(example.text)
        if not any(holds(message.content) for message in example.messages):
            return False
        if rendered.contents is None:
            raise TemplateError(
                f"{example.place} holds the string of a control token, and chat template {self.template.name} changes the row's text:\n"
                "it cannot be told which control tokens are the template's own. Take the string out of the row."
            )
        return True

    def _in_parts(self, example: Example, rendered: Rendered, spans: tuple[Span, ...]) -> Draft:
        """Return a row encoded in parts that meet where answers begin and end, as at inference."""
        is_whole = example.text is not None or self.mask == "all"
        cuts = [] if is_whole else sorted({edge for span in spans for edge in (span.start, span.end)})
        ids, counts = self.tokenizer.encode_parts(rendered.text, markup_of(rendered), cuts)
        if is_whole:
            return Draft(example, rendered, spans, ids, ((0, len(ids)),))
        at = dict(zip(cuts, counts, strict=True))
        return Draft(example, rendered, spans, ids, tuple((at[span.start], at[span.end]) for span in spans))

    def _is_clean_border(self, text: str, span: Span, before: list[int]) -> bool:
        """Return whether the tokens before an answer are those of the text before it alone, as at inference.

        They differ where a tokenizer looks ahead (white space before a word, say). That depends only on the text at
        the border and the first character after it, so it is found out once for each kind of border and first character.
        """
        first = text[span.start : span.start + 1]
        if first.isspace() or not span.border.strip():
            return before == self.tokenizer.encode(text[: span.start])
        key = (span.border[-16:], "a" if first.isalpha() else "0" if first.isnumeric() else first)
        clean = self._clean_borders.get(key)
        if clean is None:
            clean = self._clean_borders[key] = before == self.tokenizer.encode(text[: span.start])
        return clean

    def _verify(self, drafts: list[Draft]) -> list[Draft]:
        """Return the rows whose learned tokens say what they must; a row that does not is encoded in parts once more."""
        runs = [draft.ids[first:last] for draft in drafts for first, last in draft.ranges]
        said = iter(self.tokenizer.decode_after(runs))
        out = []
        for draft in drafts:
            wrong = [span for span in draft.spans if next(said) != span.expected]
            out.append(self._second_look(draft) if wrong else draft)
        return out

    def _second_look(self, draft: Draft) -> Draft:
        """Return a row whose learned tokens do not decode to its answer, if the tokenizer is the reason.

        Raises: TemplateError when they are not even the tokenizer's own round trip of the answer.
        """
        if self._says_the_same(draft, strict=True):
            return draft
        if not (draft.example.text is not None or self.mask == "all"):
            draft = self._in_parts(draft.example, draft.rendered, draft.spans)
            if self._says_the_same(draft, strict=True):
                self.in_parts.append(draft.example.place)
                return draft
        if self._says_the_same(draft, strict=False):
            self.lossy.append(draft.example.place)
            return draft
        raise TemplateError(self._difference_text(draft))

    def _says_the_same(self, draft: Draft, *, strict: bool) -> bool:
        """Return whether learned tokens say what they must: exactly, or else as the tokenizer's own round trip does."""
        for span, (first, last) in zip(draft.spans, draft.ranges, strict=True):
            run = draft.ids[first:last]
            after, alone = self.tokenizer.decode_after([run])[0], self.tokenizer.decode(run)
            is_after_control = first == 0 or draft.ids[first - 1] in self.tokenizer.special_tokens.values()
            if after == span.expected or (is_after_control and alone == span.expected):
                continue
            if span.start == 0 and _without_spaces(alone) == _without_spaces(span.expected):
                continue  # tokenizers that put a space before each part show it after the begin token
            if strict or after not in self._round_trips(span.expected):
                return False
        return True

    def _round_trips(self, expected: str) -> tuple[str, str]:
        """Return what the tokenizer itself makes of a text: as a continuation, and on its own."""
        body = expected.removesuffix(self.template.terminator)
        end = self.tokenizer.encode(self.template.terminator) if len(body) < len(expected) else []
        continued = [*self.tokenizer.encode_continuation(body), *end]
        return self.tokenizer.decode_after([continued])[0], self.tokenizer.decode(self.tokenizer.encode(expected))

    def _difference_text(self, draft: Draft) -> str:
        """Return where the learned tokens and the answer part, in at most four lines."""
        for span, (first, last) in zip(draft.spans, draft.ranges, strict=True):
            said = self.tokenizer.decode_after([draft.ids[first:last]])[0]
            if said != span.expected:
                at = next(
                    (i for i, pair in enumerate(zip(said, span.expected, strict=False)) if pair[0] != pair[1]),
                    min(len(said), len(span.expected)),
                )
                return (
                    f"{draft.example.place} the learned tokens do not say the answer: they differ at character {at + 1},\n"
                    f"answer {span.expected[max(0, at - 20) : at + 20]!r}, tokens {said[max(0, at - 20) : at + 20]!r}.\n"
                    f"Chat template {self.template.name} and this tokenizer do not fit; nothing was trained. Try another data.template."
                )
        return f"{draft.example.place} the learned tokens do not say the answer."

    def _to_encoded(self, draft: Draft) -> Encoded:
        """Return a row as arrays. Its first token is never learned: nothing stands before it to predict it from."""
        tokens = np.array(draft.ids, dtype=np.int32)
        learned = np.zeros(len(tokens), dtype=bool)
        for first, last in draft.ranges:
            learned[first:last] = True
        learned[:1] = False
        example = draft.example
        return Encoded(example.place, tokens, learned, source=example.source, weight=_weight(example))


def _token_range(encoding: Encoding, span: Span, length: int) -> tuple[int, int] | None:
    """Return the tokens of a span; None if one straddles its borders or a border stands at no token."""
    first = encoding.char_to_token(span.start)
    if first is None or (span.start and encoding.char_to_token(span.start - 1) == first):
        return None
    if span.end >= length:
        return first, len(encoding)
    last = encoding.char_to_token(span.end)
    if last is None or encoding.char_to_token(span.end - 1) == last:
        return None
    return first, last


def _without_spaces(text: str) -> str:
    return "".join(text.split(" "))


def _weight(example: Example) -> float:
    """Return a row's loss weight: its own times that of its learned turns, which have one in common."""
    turns = [m.weight for m in example.messages if m.role == "assistant" and m.train is not False and m.weight > 0]
    return example.weight * (turns[0] if turns else 1.0)


def encode_prompt(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
    """Return the ids that the model sees when it is asked to answer: the same that stand before a learned answer."""
    tokenizer = template.tokenizer
    text = template.render_prompt(messages, tools)
    if not any(tokenizer.holds_control(message.content) for message in messages):
        return tokenizer.encode(text)
    contents, position = [], 0
    for message in messages:
        start = text.find(message.content.strip(), position)
        if start < 0:
            raise TemplateError(
                f"chat template {template.name} changes the text of a message that holds the string of a control token."
            )
        position = start + len(message.content.strip())
        contents.append((start, position))
    return tokenizer.encode_parts(text, markup_of(Rendered(text, tuple(contents), ())), ())[0]

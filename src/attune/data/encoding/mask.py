"""Which tokens of a row are learned: the answers that the mask mode and the messages select, each with its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.encoding.border import Borders
from attune.data.encoding.by_word import Tokens, WordEncoder
from attune.data.encoding.proof import Draft, Span, difference_text, says_answer
from attune.data.encoding.template import ChatTemplate
from attune.data.encoding.turns import Rendered, Turn, markup_of
from attune.errors import TemplateError
from attune.types import Encoded, Example, Message, Place

MET = ("with_controls", "in_parts", "lossy", "rewritten")  # places of rows that a masker noted


class Masker:
    """Turns examples into tokens and learned marks for one template and mask mode, counting what it met on the way.

    `words`: what encodes many texts faster than the template's tokenizer, and to the same ids.
    """

    def __init__(self, template: ChatTemplate, mask: str, words: WordEncoder | None = None) -> None:
        self.template, self.mask, self.words = template, mask, words
        self.tokenizer = template.tokenizer
        self.with_controls: list[Place] = []
        self.control_texts: set[str] = set()
        self.in_parts: list[Place] = []
        self.lossy: list[Place] = []
        self.rewritten: list[Place] = []
        self._borders = Borders(self.tokenizer)

    def another(self) -> Masker:
        """Return a masker for other rows that has met nothing yet, but knows what this one found out."""
        masker = Masker(self.template, self.mask, self.words)
        masker._borders = self._borders
        return masker

    def absorb(self, part: Masker) -> None:
        """Add what another one met in rows that follow."""
        for name in MET:
            getattr(self, name).extend(getattr(part, name))
        self.control_texts |= part.control_texts

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to absorb this one: what it met."""
        return {name: getattr(self, name) for name in (*MET, "control_texts")}

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return examples as tokens with their learned marks, verified.

        Raises: TemplateError naming the first row whose learned tokens do not say its answer.
        """
        rendered = [self.template.render(example) for example in examples]
        return self.finish(examples, rendered, self.encode_texts(rendered))

    def encode_texts(self, rendered: Sequence[Rendered]) -> Sequence[Tokens]:
        """Return whole texts as ids. The tokenizer lets other threads run meanwhile."""
        texts = [row.text for row in rendered]
        if self.words is not None:
            return self.words.encode(texts)
        encodings: Sequence[Tokens] = self.tokenizer.backend.encode_batch(texts, add_special_tokens=False)
        return encodings

    def finish(
        self, examples: Sequence[Example], rendered: Sequence[Rendered], encodings: Sequence[Tokens]
    ) -> list[Encoded]:
        """Return rows with their learned marks from the encodings of their texts, verified."""
        drafts = [
            self._verified(self._draft(example, row, encoding))
            for example, row, encoding in zip(examples, rendered, encodings, strict=True)
        ]
        return _to_rows(drafts)

    def _is_whole(self, example: Example) -> bool:
        return example.text is not None or self.mask == "all"

    def _draft(self, example: Example, rendered: Rendered, encoding: Tokens) -> Draft:
        """Return a row with the token ranges of its learned spans; in parts where whole text would not do."""
        spans = self._learned_spans(example, rendered)
        if self._holds_controls(example, rendered):
            self._note_controls(example)
            return self._in_parts(example, rendered, spans)
        ids = np.asarray(encoding.ids, np.int32)
        if self._is_whole(example):
            return Draft(example, rendered, spans, ids, ((0, len(ids)),))
        ranges = []
        for span in spans:
            reach = _token_range(encoding, span, (len(rendered.text), len(ids)))
            if reach is None or not self._borders.is_clean(rendered.text, span, (ids, reach[0])):
                self.in_parts.append(example.place)
                return self._in_parts(example, rendered, spans)
            ranges.append(reach)
        return Draft(example, rendered, spans, ids, tuple(ranges))

    def _learned_spans(self, example: Example, rendered: Rendered) -> tuple[Span, ...]:
        """Return the stretches of the text that the mask mode and the messages' own flags select."""
        if self._is_whole(example):
            return (Span(0, len(rendered.text), "", rendered.text, _common_weight(example)),)
        last = rendered.turns[-1].message if rendered.turns else -1
        turns = iter(rendered.turns)
        spans = []
        for number, message in enumerate(example.messages):
            is_answer = message.role == "assistant"
            turn = next(turns) if is_answer else None
            by_mode = is_answer and (self.mask != "last" or number == last)
            if not (by_mode if message.train is None else message.train) or message.weight == 0:
                continue
            if turn is None:
                spans.append(self._context_span(example, rendered, number)._replace(weight=message.weight))
            else:
                self._refuse_unlearnable(example, turn, is_last=number == last)
                spans.append(Span(turn.start, turn.end, turn.border, turn.expected, message.weight))
        return tuple(spans)

    def _refuse_unlearnable(self, example: Example, turn: Turn, *, is_last: bool) -> None:
        """Raise TemplateError for an answer that the template does not show as the model would give it."""
        ends = not is_last or turn.expected.endswith(self.template.terminator)
        if ends and not turn.is_changed and not turn.is_rewritten:
            return
        where = f"{example.place} turn {turn.message + 1}: chat template {self.template.name}"
        other = "Use another template with data.template."
        if turn.is_changed:
            if is_last:
                raise TemplateError(f"{where} does not show the whole answer, so it cannot be learned.\n{other}")
            raise TemplateError(
                f"{where} does not show the whole answer once other turns follow (it rewrites history).\n"
                'Learn the last answer only with data.mask = "last", or use another template.'
            )
        if not ends:
            raise TemplateError(f"{where} does not end the last answer with {self.template.terminator!r}.\n{other}")
        if turn.is_rewritten and is_last:
            raise TemplateError(
                f"{where}: what stands before the answer is not what the template's generation prompt shows.\n"
                f"The model would be asked otherwise than it was taught. {other}"
            )
        if turn.is_rewritten:
            self.rewritten.append(example.place)

    def _context_span(self, example: Example, rendered: Rendered, number: int) -> Span:
        """Return the content of a turn that is no answer but has train = true."""
        if rendered.contents is None:
            raise TemplateError(
                f"{example.place} turn {number + 1} has train = true, "
                f"but chat template {self.template.name} changes its text."
            )
        start, end = rendered.contents[number]
        content = example.messages[number].content
        return Span(start, end, "", content if len(content) == end - start else content.strip())

    def _holds_controls(self, example: Example, rendered: Rendered) -> bool:
        """Return whether a row's own words hold the string of a control token."""
        holds = self.tokenizer.holds_control
        if example.text is not None:
            return holds(example.text)
        in_content, beside_it = False, False
        for message in example.messages:
            in_content = in_content or holds(message.content)
            if message.reasoning or message.tool_calls:
                beside_it = beside_it or holds(f"{message.reasoning}{message.tool_calls}")
        if example.tools:
            beside_it = beside_it or holds(str(example.tools))
        if not (in_content or beside_it):
            return False
        if beside_it or rendered.contents is None:
            raise TemplateError(
                f"{example.place} holds the string of a control token, and chat template {self.template.name} changes\n"
                "the row's text: its own control tokens cannot be told apart. Take the string out of the row."
            )
        return True

    def _note_controls(self, example: Example) -> None:
        self.with_controls.append(example.place)
        contents = [example.text] if example.text is not None else [message.content for message in example.messages]
        for content in contents:
            self.control_texts.update(text for text in self.tokenizer.special_tokens if text in content)

    def _in_parts(self, example: Example, rendered: Rendered, spans: tuple[Span, ...]) -> Draft:
        """Return a row encoded in parts that meet where answers begin and end, as at inference."""
        is_whole = self._is_whole(example)
        cuts = [] if is_whole else sorted({edge for span in spans for edge in (span.start, span.end)})
        parts, counts = self.tokenizer.encode_parts(rendered.text, markup_of(rendered), cuts)
        ids = np.array(parts, np.int32)
        if is_whole:
            return Draft(example, rendered, spans, ids, ((0, len(ids)),))
        at = dict(zip(cuts, counts, strict=True))
        return Draft(example, rendered, spans, ids, tuple((at[span.start], at[span.end]) for span in spans))

    def _verified(self, draft: Draft) -> Draft:
        """Return a row whose learned tokens say its answers; if they do not at first, the row encoded in parts.

        Raises: TemplateError when they are not even the tokenizer's own round trip of the answer.
        """
        if says_answer(draft, self.template):
            return draft
        if not self._is_whole(draft.example):
            draft = self._in_parts(draft.example, draft.rendered, draft.spans)
            if says_answer(draft, self.template):
                self.in_parts.append(draft.example.place)
                return draft
        if not says_answer(draft, self.template, strict=False):
            raise TemplateError(difference_text(draft, self.template))
        self.lossy.append(draft.example.place)
        return draft


def _to_rows(drafts: Sequence[Draft]) -> list[Encoded]:
    """Return rows as views of two arrays, one for their tokens and one for their learned marks.

    A row's first token is never learned: nothing stands before it to predict it from.
    """
    tokens = np.concatenate([np.zeros(0, np.int32), *(draft.ids for draft in drafts)])
    learned = np.zeros(len(tokens), dtype=bool)
    rows, start = [], 0
    for draft in drafts:
        end = start + len(draft.ids)
        for first, last in draft.ranges:
            learned[start + first : start + last] = True
        learned[start : start + 1] = False
        example = draft.example
        rows.append(
            Encoded(example.place, tokens[start:end], learned[start:end], "used", example.source, _weights(draft))
        )
        start = end
    return rows


def _token_range(encoding: Tokens, span: Span, lengths: tuple[int, int]) -> tuple[int, int] | None:
    """Return the tokens of a span; None if one straddles its borders or a border stands at no token.

    `lengths`: of the whole text in characters and in tokens.
    """
    first = encoding.char_to_token(span.start)
    if first is None or (span.start and encoding.char_to_token(span.start - 1) == first):
        return None
    if span.end >= lengths[0]:
        return first, lengths[1]
    last = encoding.char_to_token(span.end)
    if last is None or encoding.char_to_token(span.end - 1) == last:
        return None
    return first, last


def _weights(draft: Draft) -> NDArray[np.float32] | None:
    """Return the loss weight of each token, the row's own times that of its turn; None if all are 1."""
    own = draft.example.weight
    if own == 1 and all(span.weight == 1 for span in draft.spans):
        return None
    weights = np.full(len(draft.ids), own, dtype=np.float32)
    for span, (first, last) in zip(draft.spans, draft.ranges, strict=True):
        weights[first:last] = own * span.weight
    return weights


def _common_weight(example: Example) -> float:
    """Return the weight that all turns of a row have in common, for a row that is learned as a whole."""
    weights = {message.weight for message in example.messages if message.role == "assistant"}
    if len(weights) > 1:
        raise TemplateError(
            f"{example.place} gives its turns different weights, and data.mask = all learns the row as one piece.\n"
            "Use another data.mask, or one weight for the row."
        )
    return weights.pop() if weights else 1.0


def encode_prompt(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
    """Return the ids that the model sees when it is asked to answer: the same that stand before a learned answer."""
    tokenizer = template.tokenizer
    text = template.render_prompt(messages, tools)
    if not any(tokenizer.holds_control(message.content) for message in messages):
        return tokenizer.encode(text)
    contents = template.locate(text, messages, tools, asks=True)
    if contents is None:
        raise TemplateError(
            f"chat template {template.name} changes the text of a message that holds the string of a control token:\n"
            "its own control tokens cannot be told apart. Take the string out of the message."
        )
    return tokenizer.encode_parts(text, markup_of(Rendered(text, contents, ())), ())[0]

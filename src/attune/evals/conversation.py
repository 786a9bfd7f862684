"""Talking to a model: a history, the run's own template, and answers in pieces of text as they are made."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from attune.data.encoding.mask import encode_prompt
from attune.data.encoding.template import ChatTemplate
from attune.model.generate import stream
from attune.types import Message

UNFINISHED = "\ufffd"  # what decoders write for the first bytes of a character whose rest has not come yet


class Conversation:
    """One model in a conversation, with the turns so far. `without_adapter`: a PEFT model that answers as its base."""

    def __init__(
        self,
        model: Any,
        template: ChatTemplate,
        *,
        system: str = "",
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        without_adapter: bool = False,
    ) -> None:
        self.template = template
        self.max_new_tokens = max_new_tokens
        self._model, self._without_adapter = model, without_adapter
        self._sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed}
        self._start = (Message("system", system),) if system else ()
        self.turns: tuple[Message, ...] = self._start

    def restart(self) -> None:
        """Forget all turns but the system prompt."""
        self.turns = self._start

    def reply(self, text: str) -> Generator[str, None, None]:
        """Yield the answer to `text` in pieces; what was yielded is remembered, even if the answer is abandoned.

        Finish or close it before the model is used otherwise. Raises: ModelError when the conversation fills the
        model's context; `restart` makes room.
        """
        asked = (*self.turns, Message("user", text))
        said: list[str] = []
        with self._model.disable_adapter() if self._without_adapter else nullcontext():
            tokens = stream(
                self._model,
                encode_prompt(self.template, asked),
                stop_ids=self.template.stop_ids,
                max_new_tokens=self.max_new_tokens,
                **self._sampling,
            )
            try:
                for piece in pieces(tokens, self.template.tokenizer.decode):
                    said.append(piece)
                    yield piece
            finally:
                tokens.close()
                if said:
                    self.turns = (*asked, Message("assistant", "".join(said)))


def pieces(tokens: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """Yield the text of tokens as they come; a character made of several tokens comes whole.

    A token's text can depend on the one before it (a leading space, say), so each new text is the difference between
    decoding a short run with and without the new tokens.
    """
    ids: list[int] = []
    start, shown = 0, 0  # the run decoded begins at `start`; tokens before `shown` have been yielded
    for token in tokens:
        ids.append(token)
        before, now = decode(ids[start:shown]), decode(ids[start:])
        if len(now) > len(before) and not now.endswith(UNFINISHED):
            yield now[len(before) :]
            start, shown = shown, len(ids)
    rest = decode(ids[start:])[len(decode(ids[start:shown])) :]
    if rest:
        yield rest

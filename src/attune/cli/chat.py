"""`attune chat`: talk to a tuned model, beside its base if asked; answers appear as they are made."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from attune.cli.options import Json, RunArgument

if TYPE_CHECKING:
    from attune.data.template import ChatTemplate
    from attune.types import Message

Compare = Annotated[bool, typer.Option("--compare", help="Let the base model answer too.")]
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="A system prompt for the conversation.")]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0: the most likely token, always.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of sampled answers.")]


@dataclass
class Voice:
    """One model in the conversation, with the turns it has seen. `without_adapter`: it answers as its base does."""

    name: str
    model: Any
    template: ChatTemplate
    without_adapter: bool = False
    history: list[Message] = field(default_factory=list)

    def answer(self, asked: str, *, max_new_tokens: int, temperature: float, seed: int) -> Generator[str, None, None]:
        """Yield the answer in pieces of text; remember the turn when it is whole."""
        from attune.data.mask import encode_prompt
        from attune.model.generate import stream
        from attune.types import Message

        turns = [*self.history, Message("user", asked)]
        tokenizer, ids, shown = self.template.tokenizer, list[int](), ""
        with self.model.disable_adapter() if self.without_adapter else nullcontext():
            tokens: Any = stream(
                self.model,
                encode_prompt(self.template, turns),
                stop_ids=self.template.stop_ids,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
            )
            with closing(tokens):
                for token in tokens:
                    ids.append(token)
                    text = tokenizer.decode(ids)
                    if not text.endswith("\ufffd"):  # a character whose last bytes are still to come
                        yield text[len(shown) :]
                        shown = text
        yield tokenizer.decode(ids)[len(shown) :]
        self.history = [*turns, Message("assistant", tokenizer.decode(ids))]


def chat(
    run: RunArgument,
    *,
    compare: Compare = False,
    system: System = "",
    max_new_tokens: Tokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Talk to the tuned model.

    A line is a turn; /new starts over, /quit or Ctrl-D ends. With --compare the base model answers the same turns.
    """
    from attune.cli.screen import Screen
    from attune.types import Message

    with Screen(json=json) as screen:
        start = [Message("system", system)] if system else []
        voices = open_voices(run, compare=compare)
        turns = []
        for asked in questions(start, voices):
            answers = {}
            for voice in voices:
                pieces = voice.answer(asked, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
                answers[voice.name] = show(f"{voice.name}> ", pieces, sys.stdout)
            turns.append({"prompt": asked, "answers": answers})
        screen.finish({"run": run, "turns": turns})


def open_voices(run: str, *, compare: bool) -> list[Voice]:
    """Return the tuned model of a run, and its base before it if asked for."""
    from attune.config_file import load_config
    from attune.data.template import open_template
    from attune.data.tokenizer import load_tokenizer
    from attune.errors import CheckpointError
    from attune.model.folder import locate
    from attune.model.load import load_model, load_tuned
    from attune.record import RunFolder
    from attune.world import resolve_device

    folder = RunFolder.open(run).path
    if not (folder / "model").is_dir():
        raise CheckpointError(f"{folder} holds no model yet. Finish the run: attune resume {folder}")
    config = load_config(folder / "config.yaml")
    device = resolve_device("auto")
    precision = "float32" if device == "cpu" else "bfloat16"
    tuned = load_tuned(folder / "model", device=device, precision=precision, trust_remote_code=config.trust_remote_code)
    template = open_template("auto", load_tokenizer(folder / "model"))
    voices = [Voice("tuned", tuned, template)]
    if compare and hasattr(tuned, "disable_adapter"):
        voices.insert(0, Voice("base", tuned, template, without_adapter=True))
    elif compare:
        base = load_model(
            locate(config.model), device=device, precision=precision, trust_remote_code=config.trust_remote_code
        )
        voices.insert(0, Voice("base", base, template))
    return voices


def questions(start: list[Message], voices: list[Voice]) -> Iterator[str]:
    """Yield the lines a person types, or those of a pipe; the conversation starts over at /new."""
    for voice in voices:
        voice.history = list(start)
    while True:
        if sys.stdin.isatty():
            print("you> ", end="", flush=True)
        line = sys.stdin.readline()
        asked = line.strip()
        if not line or asked == "/quit":
            return
        if asked == "/new":
            for voice in voices:
                voice.history = list(start)
        elif asked:
            yield asked


def show(name: str, pieces: Generator[str, None, None], stream: TextIO) -> str:
    """Print an answer as it comes, control characters written out, and return it; Ctrl-C cuts it short."""
    from attune.show.words import visible

    stream.write(name)
    said = []
    try:
        with closing(pieces):
            for piece in pieces:
                said.append(piece)
                stream.write(visible(piece))
                stream.flush()
    except KeyboardInterrupt:
        stream.write(" [cut short]")
    stream.write("\n")
    return "".join(said)

"""`attune chat`: talk to a tuned model, beside its base if asked; answers appear as they are made."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from attune.cli.options import Json, RunArgument

if TYPE_CHECKING:
    from attune.evals.conversation import Conversation

Compare = Annotated[bool, typer.Option("--compare", help="Let the base model answer too.")]
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="A system prompt for the conversation.")]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0: the most likely token, always.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of sampled answers.")]


def chat(
    run: RunArgument,
    *,
    compare: Compare = False,
    system: System = "",
    max_new_tokens: Tokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Talk to the tuned model.

    A line is a turn; /new starts over, /quit or Ctrl-D ends. With --compare the base model answers the same turns.
    """
    from attune.cli.screen import Screen

    options = {"system": system, "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    with Screen(json=json) as screen:
        voices = open_voices(run, compare=compare, **options)
        turns = []
        for asked in questions(voices):
            answers = {name: show(f"{name}> ", voice.reply(asked), sys.stdout) for name, voice in voices.items()}
            turns.append({"prompt": asked, "answers": answers})
        screen.finish({"run": run, "turns": turns})


def open_voices(run: str, *, compare: bool, **options: Any) -> dict[str, Conversation]:
    """Return a conversation with the tuned model of a run, after one with its base if asked for."""
    from attune.config_file import load_run_config
    from attune.data.encoding.template import open_template
    from attune.data.encoding.tokenizer import load_tokenizer
    from attune.evals.conversation import Conversation
    from attune.evals.evaluate import tuned_folder
    from attune.model.folder import locate
    from attune.model.load import load_model, load_tuned
    from attune.record import RunFolder
    from attune.world import resolve_device

    opened = RunFolder.open(run)
    folder = tuned_folder(opened)
    config = load_run_config(opened.path, opened.find)
    device = resolve_device("auto")
    precision = "float32" if device == "cpu" else "bfloat16"
    loading: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "attention": "auto",
        "trust_remote_code": config.trust_remote_code,
    }
    tuned = load_tuned(folder, **loading)
    template = open_template("auto", load_tokenizer(folder))
    voices = {}
    if compare:
        is_adapter = hasattr(tuned, "disable_adapter")
        base = tuned if is_adapter else load_model(locate(config.model), **loading)
        voices["base"] = Conversation(base, template, without_adapter=is_adapter, **options)
    voices["tuned"] = Conversation(tuned, template, **options)
    return voices


def questions(voices: dict[str, Conversation]) -> Iterator[str]:
    """Yield the lines a person types, or those of a pipe; at /new the conversation starts over."""
    while True:
        if sys.stdin.isatty():
            print("you> ", end="", flush=True)
        line = sys.stdin.readline()
        asked = line.strip()
        if not line or asked == "/quit":
            return
        if asked == "/new":
            for voice in voices.values():
                voice.restart()
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

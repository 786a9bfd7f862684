"""A conversation streams whole characters, remembers what it said, and starts over when asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.data.encoding.mask import encode_prompt
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.errors import ModelError
from attune.evals.conversation import Conversation, pieces
from attune.model.generate import generate
from attune.model.load import load_model
from attune.types import Message
from tests.tiny import write_model_folder

TEXTS = [
    "Hello  world,\n  it is 5 o'clock.",
    "caf\u00e9 \u4f60\u597d \U0001f469\u200d\U0001f680 \u2713 end",
    " leading",
    "a\u0301 e\u0301",
    "",
]


@pytest.mark.parametrize("name", ["tokenizer-gpt2", "tokenizer-llama-spm-32k", "tokenizer-phi3-chat", "stories260K"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_to_the_text(shared: Path, name: str, text: str) -> None:
    """Put together they are the text decoded at once, and none holds half a character."""
    tokenizer = load_tokenizer(shared / "models" / name)
    ids = tokenizer.encode(text)
    out = list(pieces(ids, tokenizer.decode))
    assert "".join(out) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in out)
    assert all(out)


def test_bytes_that_never_become_a_character_are_shown_at_the_end(shared: Path) -> None:
    """A cut-off emoji is not swallowed."""
    tokenizer = load_tokenizer(shared / "models" / "tokenizer-gpt2")
    ids = tokenizer.encode("so \U0001f680")[:-1]
    assert "".join(pieces(ids, tokenizer.decode)) == tokenizer.decode(ids)
    assert tokenizer.decode(ids).endswith("\ufffd")


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Conversation:
    """A tiny model ready to talk nonsense."""
    folder = write_model_folder(tmp_path_factory.mktemp("model"))
    return Conversation(
        load_model(folder), open_template("auto", load_tokenizer(folder)), max_new_tokens=12, system="Be brief."
    )


def test_a_reply_is_what_the_model_generates(conversation: Conversation) -> None:
    """The pieces are the greedy answer to all turns so far, and both turns are remembered."""
    conversation.restart()
    for asked in ("hi", "and then?"):
        before = conversation.turns
        ids = encode_prompt(conversation.template, [*before, Message("user", asked)])
        made = generate(conversation._model, [ids], stop_ids=conversation.template.stop_ids, max_new_tokens=12)[0]
        text = "".join(conversation.reply(asked))
        assert text == conversation.template.tokenizer.decode(made.tokens)
        assert conversation.turns == (*before, Message("user", asked), Message("assistant", text))
    conversation.restart()
    assert conversation.turns == (Message("system", "Be brief."),)


def test_an_abandoned_reply_is_remembered_as_far_as_it_was_shown(conversation: Conversation) -> None:
    """What a person saw is what the model knows that it said."""
    conversation.restart()
    answer = conversation.reply("hi")
    shown = next(answer) + next(answer)
    answer.close()
    assert conversation.turns[-1] == Message("assistant", shown)


def test_a_full_context_is_an_error_with_a_way_out(conversation: Conversation) -> None:
    """The turns stay as they were, so that the person can start over."""
    conversation.restart()
    with pytest.raises(ModelError, match="no room to answer"):
        list(conversation.reply("x" * 300))
    assert conversation.turns == (Message("system", "Be brief."),)

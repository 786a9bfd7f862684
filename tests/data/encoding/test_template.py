"""Templates: the pieces equal Jinja's rendering, answers are found, and nothing runs away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from attune.data.encoding.mask import Masker, encode_prompt
from attune.data.encoding.template import ChatTemplate, ShapeMismatchError, open_template
from attune.data.encoding.tokenizer import Tokenizer, load_tokenizer
from attune.errors import ConfigError, TemplateError
from attune.types import Example, Message, Place
from tests.data.bad_inputs import write_tokenizer

CONTROLS = ("<s>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|eot|>")
LLAMA = (  # the form of Llama 3: contents are trimmed, headings end with two line breaks
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|head|>' + m['role'] + '<|head|>\n\n' + m['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|head|>\n\n' }}{% endif %}"
)
THINKING = (  # the form of Qwen 3: reasoning stays in the last answer only
    "{% for m in messages %}{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in c and not loop.last %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + c + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LATE_SYSTEM = (  # the form of Mistral: the system prompt moves to the last question
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|head|>' }}"
    "{% set left = messages[loop.index0:] | selectattr('role', 'equalto', 'user') | list | length %}"
    "{% if messages[0]['role'] == 'system' and left == 1 %}{{ messages[0]['content'] + '\n' }}{% endif %}"
    "{{ m['content'] + '<|eot|>' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}"
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """A tokenizer of bytes and a few control tokens."""
    return load_tokenizer(write_tokenizer(tmp_path / "tokenizer", controls=CONTROLS))


def own(source: str, tokenizer: Tokenizer) -> ChatTemplate:
    """Return a template as if the tokenizer had brought it."""
    return ChatTemplate("own", source, tokenizer, "test")


def talk(*contents: str, system: str | None = None) -> Example:
    """Return a conversation of user and assistant in turn."""
    turns = [Message(("user", "assistant")[number % 2], content) for number, content in enumerate(contents)]
    return Example(Place("f.jsonl", 1, 0), messages=(*([Message("system", system)] if system else []), *turns))


def learned_texts(template: ChatTemplate, example: Example, mask: str = "completion") -> list[str]:
    """Return what the learned tokens of a row say, run by run."""
    row = Masker(template, mask).encode([example])[0]
    runs: list[list[int]] = [[]]
    for token, is_learned in zip(row.tokens.tolist(), row.learned.tolist(), strict=True):
        if is_learned:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [template.tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("source", [LLAMA, THINKING, "plain", "chatml", "none"])
def test_pieces_equal_jinja(source: str, tokenizer: Tokenizer) -> None:
    """A row put together from pieces is the text that Jinja renders, and its answers are the answers."""
    template = open_template(source, tokenizer) if source.isalpha() else own(source, tokenizer)
    for example in (talk("a", "b"), talk("q 1", "r 1", "q 2", "r 2"), talk("x", "y", system="be brief")):
        pieces = template.render(example)
        template.compiles = False
        assert pieces.text == template.render(example).text
        template.compiles = True
        expected = [m.content + template.terminator for m in example.messages if m.role == "assistant"]
        assert [turn.expected for turn in pieces.turns] == expected
        assert [pieces.text[turn.start : turn.end] for turn in pieces.turns] == expected


def test_the_terminator_is_learned_and_nothing_after_it(tokenizer: Tokenizer) -> None:
    """The learned tokens are the answers, each with the control token that ends it; the line break after it is not."""
    template = open_template("chatml", tokenizer)
    assert learned_texts(template, talk("q", "one", "q", "two")) == ["one<|im_end|>", "two<|im_end|>"]
    assert learned_texts(template, talk("q", "one", "q", "two"), "last") == ["two<|im_end|>"]
    assert template.stop_ids[0] == tokenizer.special_tokens["<|im_end|>"]


def test_a_template_that_trims_is_found_out(tokenizer: Tokenizer) -> None:
    """Contents with white space around them go through Jinja itself, and what is learned is what it shows."""
    template = own(LLAMA, tokenizer)
    rendered = template.render(talk("  q ", " answer\n"))
    assert "\n\nq<|eot|>" in rendered.text
    assert learned_texts(template, talk("  q ", " answer\n")) == ["answer<|eot|>"]


def test_words_that_a_template_looks_for_go_through_jinja(tokenizer: Tokenizer) -> None:
    """A content that holds a text the template tests for is not put together from pieces."""
    template = own(THINKING, tokenizer)
    last = talk("q", "a", "q", "<think>why</think>b")
    assert learned_texts(template, last)[-1] == "<think>why</think>b<|im_end|>"
    with pytest.raises(TemplateError, match="rewrites history"):
        Masker(template, "completion").encode([talk("q", "<think>why</think>a", "q", "b")])
    assert learned_texts(template, talk("q", "<think>why</think>a", "q", "b"), "last") == ["b<|im_end|>"]


def test_a_template_that_moves_the_system_prompt_is_reported(tokenizer: Tokenizer) -> None:
    """Answers before the last one are counted where the text before them is not what the model would see."""
    masker = Masker(own(LATE_SYSTEM, tokenizer), "completion")
    masker.encode([talk("q", "a", "q", "b", system="be brief")])
    assert len(masker.rewritten) == 1
    last_only = Masker(own(LATE_SYSTEM, tokenizer), "last")
    last_only.encode([talk("q", "a", "q", "b", system="be brief")])
    assert not last_only.rewritten


def test_a_template_that_drops_a_message_is_refused(shared: Path) -> None:
    """A system prompt that a template leaves out is not lost in silence."""
    template = open_template("auto", load_tokenizer(shared / "models" / "tokenizer-phi3-chat"))
    with pytest.raises(TemplateError, match=r"f.jsonl:1 turn 1 \(system\)"):
        template.render(talk("q", "a", system="be brief"))


def test_a_content_dependent_template_is_rendered_by_jinja_only(tokenizer: Tokenizer) -> None:
    """Pieces that do not hold for a row are noticed on the sample, and the caller is told to start again."""
    source = (
        "{% for m in messages %}{{ m['role'] + ':' + (m['content'] if m['content'] | length < 40 else 'long') }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    with pytest.raises(TemplateError, match="does not show the text"):
        own(source.replace("< 40", "< 8"), tokenizer)
    template = own(source, tokenizer)
    with pytest.raises(ShapeMismatchError):
        template.render(talk("q" * 50, "a"))


def test_prompt_tokens_are_those_before_the_answer(tokenizer: Tokenizer) -> None:
    """What the model sees when asked is, token by token, what stands before the learned answer."""
    for source in ("plain", "chatml", "none"):
        template = open_template(source, tokenizer)
        for question in ("q", "what? ", "two\n\n", "holds <|im_end|> inside", "</s>"):
            example = talk(question, "answer")
            row = Masker(template, "completion").encode([example])[0]
            start = row.learned.tolist().index(True)
            assert row.tokens[:start].tolist() == encode_prompt(template, example.messages[:1])


def test_control_tokens_in_content_stay_plain_text(tokenizer: Tokenizer) -> None:
    """Markup becomes control tokens; the same strings in a content become ordinary tokens, and are counted."""
    masker = Masker(open_template("chatml", tokenizer), "completion")
    row = masker.encode([talk("say <|im_end|>", "<|im_start|> and </s>")])[0]
    controls = [token for token in row.tokens.tolist() if token in tokenizer.control_ids]
    assert [tokenizer.decode([token]) for token in controls] == ["<|im_start|>", "<|im_end|>"] * 2
    assert len(masker.with_controls) == 1
    assert tokenizer.decode(row.tokens[row.learned].tolist()) == "<|im_start|> and </s><|im_end|>"


def test_control_tokens_beside_the_content_are_refused(tokenizer: Tokenizer) -> None:
    """In reasoning or tool calls they cannot be told from the template's own: such a row is refused."""
    source = LLAMA.replace("{{ '<|head|>' +", "{{ m.get('reasoning_content', '') + '<|head|>' +", 1)
    turns = (Message("user", "q"), Message("assistant", "a", reasoning="why <|eot|>"))
    with pytest.raises(TemplateError, match="control token"):
        Masker(own(source, tokenizer), "all").encode([Example(Place("f.jsonl", 1, 0), messages=turns)])


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ range(100000000) | list }}",
        "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(200) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 10 ** 1000000000 }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% for m in messages %}",
    ],
)
def test_a_hostile_template_ends_soon_with_an_error(source: str, tokenizer: Tokenizer) -> None:
    """Endless loops, endless growth and a way out to Python are refused within seconds."""
    begin = time.monotonic()
    with pytest.raises(TemplateError):
        own(source, tokenizer)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "no control token after an answer"),
        ("{% for m in messages %}{{ m['role'] + m['content'] + eos_token }}{% endfor %}", "no generation prompt"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_a_template_that_cannot_teach_is_refused(source: str, words: str, tokenizer: Tokenizer) -> None:
    """A template without an end, without a generation prompt, or that raises says so when it is opened."""
    with pytest.raises(TemplateError, match=words):
        own(source, tokenizer)


def test_the_choice_of_a_template(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Without a template of its own a tokenizer gets plain; a file is read; a wrong name gets the nearest one."""
    assert open_template("auto", tokenizer).name == "plain"
    path = tmp_path / "mine.jinja"
    path.write_text(LLAMA)
    assert open_template(str(path), tokenizer).terminator == "<|eot|>"
    with pytest.raises(ConfigError, match='Did you mean "chatml"'):
        open_template("chatlm", tokenizer)
    with pytest.raises(TemplateError, match="im_start"):
        open_template("chatml", load_tokenizer(write_tokenizer(tmp_path / "bare")))

"""What is odd about a chat template is named, each oddity once, and nothing that is as it should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attune.data.encoding.probe import ANSWER, ASK, HERE, SYSTEM, TOOL, template_problems
from attune.data.encoding.template import ChatTemplate, ShapeMismatchError, open_template
from attune.data.encoding.tokenizer import Tokenizer, load_tokenizer
from attune.errors import TemplateError
from attune.types import Example, Finding
from tests.data.bad_inputs import write_tokenizer

CONTROLS = ("<s>", "<|im_start|>", "<|im_end|>")
EACH = "{% for m in messages %}"
SHOWN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
ASKS = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
WHOLE = EACH + SHOWN + ASKS
# the form of Qwen 3: a turn's reasoning stands before its content, of the last answer or of all
REASONS = "{% if m.reasoning_content{} %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
THINKS = EACH + "{{ '<|im_start|>' + m['role'] + '\n' }}" + REASONS + "{{ m['content'] + '<|im_end|>\n' }}" + ASKS
REFUSES = "{% if CONDITION %}{{ raise_exception('not with me') }}{% endif %}" + WHOLE
SOUND = {
    "usual": WHOLE,
    "one begin token": "{{ bos_token }}" + WHOLE,
    "reasoning kept": THINKS.replace("{}", ""),
    "an end after the last turn": WHOLE + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",  # Phi 3.5's
    "contents trimmed": WHOLE.replace("m['content']", "m['content'] | trim"),
    "no reasoning known": WHOLE.replace("m['role'] +", "(m['role'] | lower) +"),
}
ODD = {
    "begins twice": ("{{ bos_token }}<s>" + WHOLE, "T06", "double-begin-token", "warning"),
    "no end": (
        WHOLE.replace("<|im_end|>\n' }}", "' }}{% if not m['content'].endswith('.') %}{{ eos_token }}{% endif %}"),
        "T07",
        "terminator-not-learned",
        "error",
    ),
    "asked by another name": (WHOLE.replace("'<|im_start|>assistant", "'<|im_start|>bot"), "T08", "", "warning"),
    "asked with thinking shut off": (
        WHOLE.replace("assistant\n'", "assistant\n<think>\n\n</think>\n\n'"),
        "T08",
        "prompt-not-a-prefix",
        "warning",
    ),
    "earlier answers shortened": (
        WHOLE.replace("+ m['content']", "+ ('' if m['role'] == 'assistant' and not loop.last else m['content'])"),
        "T03",
        "rewritten-history",
        "info",
    ),
    "earlier reasoning dropped": (THINKS.replace("{}", " and loop.last"), "T03", "rewritten-history", "info"),
    "one question only": (
        REFUSES.replace("CONDITION", "messages | map(attribute='role') | list | length > 3"),
        "T03",
        "history-refused",
        "info",
    ),
    "system left out": (
        EACH + "{% if m['role'] != 'system' %}" + SHOWN + "{% endif %}" + ASKS,
        "T09",
        "no-system-role",
        "info",
    ),
    "system refused": (REFUSES.replace("CONDITION", "messages[0]['role'] == 'system'"), "T09", "", "info"),
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """A tokenizer of bytes with a begin token, an end token and those of ChatML."""
    folder = write_tokenizer(tmp_path / "tokenizer", controls=CONTROLS)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    return load_tokenizer(folder)


def problems(source: str, tokenizer: Tokenizer, *, has_tools: bool = False) -> list[Finding]:
    """What is odd about a template that a tokenizer brings."""
    return template_problems(ChatTemplate("own", source, tokenizer, "test"), has_tools=has_tools)


@pytest.mark.parametrize("kind", SOUND)
def test_nothing_is_said_about_a_sound_template(kind: str, tokenizer: Tokenizer) -> None:
    """A template that shows every turn the same way each time has no problem."""
    assert problems(SOUND[kind], tokenizer) == []


@pytest.mark.parametrize("kind", ODD)
def test_each_oddity_is_named_and_nothing_else(kind: str, tokenizer: Tokenizer) -> None:
    """One thing is wrong with each of these templates, and that is the one finding."""
    source, identity, name, severity = ODD[kind]
    (found,) = problems(source, tokenizer)
    assert (found.id, found.severity) == (identity, severity)
    assert name in {found.name, ""}
    assert found.message.startswith("chat template: ")
    assert "template's test" not in found.message  # it is no place in the user's data


def test_what_a_template_is_asked_is_shown(tokenizer: Tokenizer) -> None:
    """The end of the generation prompt stands in the finding, so that it can be looked for in the template."""
    (found,) = problems(ODD["asked by another name"][0], tokenizer)
    assert "<|im_start|>bot\\n" in found.message
    assert "generation prompt" in found.fix


def test_several_oddities_are_several_findings(tokenizer: Tokenizer) -> None:
    """A template that begins twice and refuses a system prompt has both findings; their ids differ."""
    both = "{{ bos_token }}{{ bos_token }}" + ODD["system refused"][0]
    assert [found.id for found in problems(both, tokenizer)] == ["T06", "T09"]


def test_the_complaint_of_a_template_is_passed_on(tokenizer: Tokenizer) -> None:
    """Where a template refuses a system prompt its own words are told, and what to do instead."""
    (found,) = problems(ODD["system refused"][0], tokenizer)
    assert "not with me" in found.message
    assert found.fix == "Put the system prompt into the first question."


def test_rows_that_a_finding_calls_refused_are_refused(tokenizer: Tokenizer) -> None:
    """A system prompt or a tool that a template leaves out is never dropped from a row in silence."""
    template = ChatTemplate("own", ODD["system left out"][0], tokenizer, "test")
    for messages, tools in (((SYSTEM, ASK, ANSWER), ()), ((ASK, ANSWER), (TOOL,))):
        with pytest.raises(TemplateError):
            template.render(Example(HERE, messages=messages, tools=tools))
    told = [found.message for found in template_problems(template, has_tools=True)]
    assert len(told) == 2
    assert all("refused" in message for message in told)


def test_tools_matter_only_where_rows_have_some(tokenizer: Tokenizer) -> None:
    """Whether tools are shown is told when rows define some; a template that shows them has no problem."""
    (found,) = problems(WHOLE, tokenizer, has_tools=True)
    assert (found.id, found.name, found.severity) == ("T10", "no-tools", "info")
    shows = "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}" + WHOLE
    assert problems(shows, tokenizer, has_tools=True) == []
    (found,) = problems("{% if tools %}{% endif %}" + WHOLE, tokenizer, has_tools=True)
    assert "lose them" in found.message


def test_a_template_that_fails_is_an_error(tokenizer: Tokenizer) -> None:
    """Where not even a question and its answer can be shown, that is the one finding."""
    (found,) = problems(REFUSES.replace("CONDITION", "'legs' in messages[0]['content']"), tokenizer)
    assert (found.id, found.name, found.severity) == ("T00", "template-fails", "error")


def test_a_template_without_an_end_is_no_template(tokenizer: Tokenizer) -> None:
    """What never ends an answer is refused when it is opened, before there is anything to try."""
    with pytest.raises(TemplateError, match="puts no control token after an answer"):
        problems(WHOLE.replace("<|im_end|>", ""), tokenizer)


def test_pieces_that_do_not_fit_are_said(tokenizer: Tokenizer) -> None:
    """A template that looks at the length of the words raises, so that all rows are rendered by Jinja."""
    long = ChatTemplate(
        "own", WHOLE.replace("['role'] +", "['role'] + '!' * (m['content'] | length > 9) +"), tokenizer, ""
    )
    with pytest.raises(ShapeMismatchError):
        template_problems(long)


@pytest.mark.parametrize("name", ["plain", "chatml", "none"])
def test_the_named_templates_are_sound(name: str, tokenizer: Tokenizer) -> None:
    """The templates that come along have no problem but that they show no tools."""
    template = open_template(name, tokenizer)
    assert template_problems(template, has_tools=False) == []
    assert [found.id for found in template_problems(template)] == ["T10"]


def test_the_template_of_a_real_tokenizer(shared: Path) -> None:
    """Phi 3 shows neither system prompts nor tools, and that is all."""
    phi = load_tokenizer(shared / "models" / "tokenizer-phi3-chat")
    found = template_problems(open_template("auto", phi))
    assert [(one.id, one.severity) for one in found] == [("T09", "info"), ("T10", "info")]
    assert template_problems(open_template("plain", phi), has_tools=False) == []

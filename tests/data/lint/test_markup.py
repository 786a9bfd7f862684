"""Chat markup inside messages."""

from __future__ import annotations

import pytest

from attune.data.lint.markup import find_markup, first_signs, markup_pattern, may_hold_markup

TOKENS = ("<s>", "</s>", "<unk>", "[PAD]", "<|im_start|>", "<tool_call>", "<custom_end>")
KNOWN, OWN = markup_pattern(()), markup_pattern(TOKENS)

MARKED = (
    "[INST] Sum this [/INST]",
    "<|im_start|>user\nhi<|im_end|>",
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
    "<start_of_turn>model\nok<end_of_turn>",
    "<|user|>\nhi<|end|>",
    "Done.<|endoftext|>",
    "<<SYS>>be good<</SYS>>hi",
    "<\uff5cUser\uff5c>hi",
    "<|begin\u2581of\u2581sentence|>",
    "[TOOL_CALLS] [1]",
    "<s>hello",
    "Fine.</s>",
    "Question</s><s>answer",
    "### Instruction:\nSum this.\n\n### Response:\n",
    "Some answer.\n### Response:\nMore",
    "### Instruction:\nSum this.\n\n### Input:\n1 2",
    "Human: hi\n\nAssistant:",
    "\n\nHuman: hi\n\nAssistant: hello",
    "USER: hi ASSISTANT: hello",
    "User: hi\nAssistant: hello\nUser: bye\nAssistant:",
)
PLAIN = (
    "use `<|im_start|>` to begin",
    "```\n[INST] x [/INST]\n```\nThat is Llama 2.",
    "strike <s>old</s> new",
    "<s>old</s> is now 5",
    "from <s>10</s> to 5, from <s>12</s> to 6",
    "a <b>bold</b> word",
    "### Ingredients:\n- x\n### Instructions:\nmix",
    "### Input:\nlist",
    "x <| y |> z",
    "5 < 6 and [INSTALL]",
    "Human: what a word",
    "dialogue:\nUser: hi\nBot: hello",
    '<tool_call>{"name":"a"}</tool_call>',
    "<think>hm</think> ok",
    "#### 72",
)


def seen(content: str, tokens: tuple[str, ...] = (), asked: str = "") -> str | None:
    """What is found in a message, with the first look taken before."""
    if not may_hold_markup(content, first_signs(tokens)):
        return None
    return find_markup(content, OWN if tokens else KNOWN, asked)


@pytest.mark.parametrize("content", MARKED)
def test_markup_of_every_known_family_is_found(content: str) -> None:
    """A message that a template already went through is found without any tokenizer."""
    assert seen(content)
    assert seen(content, TOKENS)


@pytest.mark.parametrize("content", PLAIN)
def test_what_only_looks_like_markup_is_let_be(content: str) -> None:
    """Markup in code or backticks, strike-through, recipes, reasoning and tool calls are content."""
    assert seen(content, TOKENS) is None


@pytest.mark.parametrize("content", ["hi <custom_end>", "an <unk> word", "foo [PAD] [PAD]"])
def test_own_special_tokens_of_the_tokenizer_are_found(content: str) -> None:
    """A special token that no known family has is found when the tokenizer names it, and only then."""
    assert seen(content, TOKENS)
    assert seen(content) is None


def test_whole_strike_through_is_let_be_when_html_is_asked_for() -> None:
    """<s>...</s> around a whole answer is a rendered text, unless the question is about HTML."""
    assert seen("<s>old price</s>")
    assert seen("<s>old price</s>", asked="How do I cross out 'old price' in HTML?") is None


def test_special_tokens_that_are_plain_words_are_no_markup() -> None:
    """A tokenizer whose special token is a word or a line break does not make every text faulty."""
    assert find_markup("a pad of paper\n\n", markup_pattern(("pad", "\n", "\n\n")), "") is None


def test_what_is_shown_names_the_markup() -> None:
    """The text that a finding shows holds the sign itself."""
    assert "[INST]" in str(seen("Please read this. [INST] Sum it [/INST]"))

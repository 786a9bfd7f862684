"""Chat templates: a conversation as one text, with the place of every turn in it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

from attune.data.encoding.sandbox import MAX_WORK, WORK_PER_TURN, Sandbox
from attune.data.encoding.tokenizer import Tokenizer
from attune.data.encoding.turns import Rendered, Shape, Turn, cut_at_marks, fill, keeps, mark
from attune.errors import ConfigError, TemplateError
from attune.types import Example, Message

# The answer begins after a line break and ends at the end token: both are places where tokens end of themselves.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant:\\n' + message['content'] + eos_token }}"
    "{% else %}{{ message['role'] | capitalize + ': ' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NONE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
NAMED = {"plain": PLAIN, "chatml": CHATML, "none": NONE}
BY_DEFAULT = "this tokenizer has no chat template; the default is saved with the model"
PROVED_FIRST, PROVED_EVERY = (
    16,
    64,
)  # rows of a shape that are rendered by Jinja too: the first ones, then one in so many


class ShapeMismatchError(Exception):
    """A row of a known shape that Jinja renders otherwise than the compiled pieces: compile no more, start again."""


class ChatTemplate:
    """A template opened for one tokenizer. `terminator` ends an answer; `stop_ids` end a generation."""

    def __init__(self, name: str, source: str, tokenizer: Tokenizer, reason: str) -> None:
        self.name, self.source, self.reason = name, source, reason
        self.is_default = reason == BY_DEFAULT
        self.tokenizer = tokenizer
        self.compiles = True
        self._sandbox = Sandbox()
        try:
            self._jinja = self._sandbox.open(source)
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            line = f" line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise TemplateError(
                f'chat template {name}{line}: {str(error).rstrip(".")}.\nMend it, or use data.template = "plain".'
            ) from error
        self._triggers = tuple(_literals_tested(self._sandbox.parse(source)))
        self._strips = "strip" in source or "trim" in source
        self._shapes: dict[tuple[str, ...], Shape | None] = {}
        self._seen: dict[tuple[str, ...], int] = {}
        self.terminator = ""
        self.terminator = self._find_terminator()
        last = tokenizer.encode(self.terminator)[-1]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys((last, *tokenizer.stop_ids)))

    def render(self, example: Example) -> Rendered:
        """Return a conversation (or plain text) as the text to train on.

        Raises: TemplateError when the template refuses the row or drops its last answer's prompt.
        """
        if example.text is not None:
            return self._render_text(example.text)
        shape_key = tuple([message.role for message in example.messages])
        if self.compiles and not example.tools and all(map(self._is_simple, example.messages)):
            shape = self._shape(shape_key, example)
            if shape is not None:
                rendered = fill(shape, example.messages, self.terminator)
                self._prove(shape_key, example, rendered)
                return rendered
        return self._render_slowly(example)

    def render_prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return what the model sees when it is asked to answer: the conversation and the generation prompt."""
        return self._run([_to_dict(message) for message in messages], tools, asks=True)

    def locate(
        self, text: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, asks: bool = False
    ) -> tuple[tuple[int, int], ...] | None:
        """Return the span of every message's own words in a rendered text; None if the template changes them."""
        marked = [{**_to_dict(message), "content": mark(number)} for number, message in enumerate(messages)]
        cut = cut_at_marks(self._run(marked, tools, asks=asks), len(messages))
        if cut is None:
            return None
        for contents in ([m.content for m in messages], [m.content.strip() for m in messages]):
            words = [Message(m.role, content) for m, content in zip(messages, contents, strict=True)]
            filled = fill(cut[0], words, "")
            if filled.text == text:
                return filled.contents
        return None

    def _render_text(self, text: str) -> Rendered:
        if self.tokenizer.eos_token is None:
            raise TemplateError(_no_end_token(self.tokenizer))
        bos = (self.tokenizer.bos_token or "") if self.tokenizer.adds_bos else ""
        whole = f"{bos}{text}{self.tokenizer.eos_token}"
        return Rendered(whole, ((len(bos), len(bos) + len(text)),), ())

    def _is_simple(self, message: Message) -> bool:
        """Return whether a template can only copy this message's content, whatever the content says."""
        content = message.content
        if not content or message.tool_calls or message.reasoning or message.name or message.tool_call_id:
            return False
        if self._strips and (content[0].isspace() or content[-1].isspace()):
            return False
        for literal in self._triggers:  # noqa: SIM110 - a loop is several times faster than any() here
            if literal in content:
                return False
        return True

    def _run(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, asks: bool) -> str:
        """Return Jinja's own rendering. Raises: TemplateError with the template's complaint."""
        self._sandbox.budget = MAX_WORK + WORK_PER_TURN * len(messages)
        names = self.tokenizer
        try:
            return self._jinja.render(
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=asks,
                bos_token=names.bos_token or "",
                eos_token=names.eos_token or "",
            )
        except (
            jinja2.TemplateError,
            RecursionError,
            TypeError,
            KeyError,
            ValueError,
            AttributeError,
            MemoryError,
            IndexError,
        ) as error:
            text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise TemplateError(f"chat template {self.name}: {text}") from error

    def _find_terminator(self) -> str:
        """Return what ends an answer: the text after it up to the first control token."""
        messages = [{"role": "user", "content": mark(0)}, {"role": "assistant", "content": mark(1)}]
        text = self._run(messages, (), asks=False)
        if text.count(mark(0)) < 1 or text.count(mark(1)) != 1:
            raise TemplateError(
                f"chat template {self.name} does not show the text of its messages.\nUse another with data.template."
            )
        tail = text[text.index(mark(1)) + len(mark(1)) :]
        ends = [(tail.index(c.text), -len(c.text)) for c in self.tokenizer.controls if c.text in tail]
        if not ends:
            if self.tokenizer.eos_id is None:
                raise TemplateError(_no_end_token(self.tokenizer))
            raise TemplateError(
                f"chat template {self.name} puts no control token after an answer: replies would never stop.\n"
                'Write {{ eos_token }} after the answer, or use data.template = "plain".'
            )
        asked = self._run(messages[:1], (), asks=True)
        if asked == self._run(messages[:1], (), asks=False) and not text.startswith(asked + mark(1)):
            raise TemplateError(
                f"chat template {self.name} has no generation prompt: the model would write the heading itself.\n"
                "Add {% if add_generation_prompt %}...{% endif %} at its end."
            )
        start, length = min(ends)
        return tail[: start - length]

    def _shape(self, key: tuple[str, ...], example: Example) -> Shape | None:
        if key not in self._shapes:
            self._shapes[key] = self._compile(key, example)
        return self._shapes[key]

    def _compile(self, roles: tuple[str, ...], example: Example) -> Shape | None:
        """Return the pieces of text around the contents of such conversations; None if they cannot be told apart."""
        messages = [{"role": role, "content": mark(number)} for number, role in enumerate(roles)]
        text = self._run_for(example, messages)
        cut = cut_at_marks(text, len(roles))
        if cut is None:
            return None
        shape, bounds = cut
        turns = []
        for number, role in enumerate(roles):
            if role == "assistant":
                asked = self._run_for(example, messages[:number], asks=True)
                start, end = bounds[number]
                piece = shape.pieces[shape.order.index(number)]
                follows = text.startswith(asked) and start - len(piece) <= len(asked) <= start
                after = len(self.terminator) if text.startswith(self.terminator, end) else 0
                turns.append((number, start - len(asked) if follows else 0, after, not follows))
        return replace(shape, turns=tuple(turns))

    def _run_for(self, example: Example, messages: Sequence[Mapping[str, Any]], *, asks: bool = False) -> str:
        try:
            return self._run(messages, example.tools, asks=asks)
        except TemplateError as error:
            raise TemplateError(
                f"{example.place} {error}.\nMend the row, or use another template with data.template."
            ) from error

    def _prove(self, key: tuple[str, ...], example: Example, rendered: Rendered) -> None:
        """Compare pieces with Jinja's own rendering on a sample of rows. Raises: ShapeMismatchError."""
        count = self._seen.get(key, 0)
        self._seen[key] = count + 1
        if count >= PROVED_FIRST and count % PROVED_EVERY:
            return
        if self._run_for(example, [_to_dict(message) for message in example.messages]) != rendered.text:
            raise ShapeMismatchError

    def _render_slowly(self, example: Example) -> Rendered:
        """Render with Jinja, and find each answer by rendering the conversation up to it."""
        messages = [_to_dict(message) for message in example.messages]
        self._refuse_unsupported(example)
        text = self._run_for(example, messages)
        self._refuse_dropped(example, text)
        contents = self.locate(text, example.messages, example.tools)
        turns = []
        for number, message in enumerate(example.messages):
            if message.role == "assistant":
                asked = self._run_for(example, messages[:number], asks=True)
                told = self._run_for(example, messages[: number + 1])
                span = contents[number] if contents else None
                turns.append(self._slow_turn(number, message, (text, asked, told), span))
        return Rendered(text, contents, tuple(turns))

    def _slow_turn(
        self, number: int, message: Message, texts: tuple[str, str, str], span: tuple[int, int] | None
    ) -> Turn:
        """Return where an answer stands in the whole text, from the text before it and the text up to it."""
        text, asked, told = texts
        if told.startswith(asked):
            length = told.rfind(self.terminator, len(asked)) + len(self.terminator)
            if length >= len(asked) + len(self.terminator) and text.startswith(told[:length]):
                said = text[len(asked) : length]
                return Turn(number, len(asked), length, "", said, is_changed=not keeps(said, message.content))
        if span is None:
            return Turn(number, 0, 0, "", "", is_rewritten=True, is_changed=True)
        end = span[1] + (len(self.terminator) if text.startswith(self.terminator, span[1]) else 0)
        start = len(asked) if text.startswith(asked) and len(asked) <= span[0] else span[0]
        return Turn(
            number,
            start,
            end,
            "",
            text[start:end],
            is_rewritten=True,
            is_changed=not keeps(text[start:end], message.content),
        )

    def _refuse_dropped(self, example: Example, text: str) -> None:
        """Raise TemplateError when the template leaves out a message that the answers may depend on."""
        for number, message in enumerate(example.messages, start=1):
            if message.role != "assistant" and not keeps(text, message.content):
                raise TemplateError(
                    f"{example.place} turn {number} ({message.role}): chat template {self.name} does not show it.\n"
                    "Use a template that does, with data.template, or put its text into another turn."
                )

    def _refuse_unsupported(self, example: Example) -> None:
        """Raise TemplateError when the template would silently drop tools or tool calls."""
        wants = {
            "tool_calls": any(message.tool_calls for message in example.messages),
            "tools": bool(example.tools),
            "reasoning_content": any(message.reasoning for message in example.messages),
        }
        for name, is_wanted in wants.items():
            if is_wanted and name not in self.source:
                raise TemplateError(
                    f"{example.place} has {name}, which chat template {self.name} does not render.\n"
                    "Use a template that does, with data.template, or take it out of the row."
                )


def open_template(choice: str, tokenizer: Tokenizer) -> ChatTemplate:
    """Return the chosen template: auto, the tokenizer's own, a named one or a Jinja file.

    Raises: ConfigError for an unknown choice; TemplateError for a template that cannot be trained with.
    """
    if tokenizer.eos_id is None and (choice in ("plain", "none") or (choice == "auto" and not tokenizer.chat_template)):
        raise TemplateError(_no_end_token(tokenizer))
    if choice == "auto" and tokenizer.chat_template:
        return ChatTemplate("tokenizer", tokenizer.chat_template, tokenizer, "the tokenizer's own")
    reason = "chosen"
    if choice == "auto":
        choice, reason = "plain", BY_DEFAULT
    if choice in NAMED:
        return ChatTemplate(choice, named_source(choice, tokenizer), tokenizer, reason)
    path = Path(choice)
    if path.is_file():
        return ChatTemplate(path.name, path.read_text(encoding="utf-8"), tokenizer, f"file {path}")
    near = difflib.get_close_matches(choice, ("auto", *NAMED), n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    raise ConfigError(
        f'data.template: "{choice}" is neither a template ({", ".join(("auto", *NAMED))}) nor a file.{hint}'
    )


def named_source(name: str, tokenizer: Tokenizer) -> str:
    """Return a named template as Jinja, with the begin token where the tokenizer adds one itself."""
    if name == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= set(tokenizer.special_tokens):
        raise TemplateError(
            "chatml needs the control tokens <|im_start|> and <|im_end|>, which this tokenizer does not have.\n"
            'Use data.template = "plain", which works with any tokenizer that has an end token.'
        )
    return ("{{ bos_token }}" if tokenizer.adds_bos else "") + NAMED[name]


def _no_end_token(tokenizer: Tokenizer) -> str:
    return (
        f"the tokenizer in {tokenizer.folder} has no end token: replies would never stop.\n"
        'Name one as "eos_token" in its tokenizer_config.json.'
    )


def _to_dict(message: Message) -> dict[str, Any]:
    """Return a message as templates expect it."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [_call_to_dict(call) for call in message.tool_calls]
    if message.name:
        out["name"] = message.name
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    return out


def _call_to_dict(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call with its arguments as an object: OpenAI writes them as text, templates want to print them."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}}


def _literals_tested(tree: nodes.Template) -> list[str]:
    """Return the texts that a template looks for or cuts at: a content that holds one may be rendered otherwise."""
    found: set[str] = set()
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter)):
        if isinstance(node, nodes.Compare):
            parts = [node.expr] if any(operand.op in ("in", "notin") for operand in node.ops) else []
        else:
            parts = list(node.args) if isinstance(node, (nodes.Call, nodes.Filter)) else []
        found.update(
            part.value for part in parts if isinstance(part, nodes.Const) and isinstance(part.value, str) and part.value
        )
    return sorted(found)

"""What a chat template does that its user should know, tried on small conversations before any row."""

from __future__ import annotations

from collections.abc import Sequence

from attune.data.encoding.template import ChatTemplate
from attune.data.encoding.turns import Rendered
from attune.errors import TemplateError
from attune.types import Example, Finding, Message, Place, Severity

HERE = Place("(the template's test)", 1, 0)
ASK, ANSWER = Message("user", "How many legs has a cat?"), Message("assistant", "Four.")
AGAIN, LAST = Message("user", "And a hen?"), Message("assistant", "Two.")
SYSTEM = Message("system", "Answer in one word.")
THOUGHT = Message("assistant", "Four.", reasoning="Cats walk on all of them.")
TOOL: dict[str, object] = {
    "type": "function",
    "function": {"name": "count_legs", "description": "Counts.", "parameters": {"type": "object", "properties": {}}},
}


def template_problems(template: ChatTemplate, *, has_tools: bool = True) -> list[Finding]:
    """Return what is odd about a template: each a finding of its own, none where all is as it should be.

    `has_tools`: some rows define tools, so it matters whether they are shown.
    Raises: ShapeMismatchError as ChatTemplate.render does.
    """
    try:
        plain = _render(template, (ASK, ANSWER))
    except TemplateError as error:
        return [_problem("T00", "template-fails", f"it cannot show a question and its answer: {error}", "error")]
    tried = (
        _begins_twice(template, plain),
        _ends(template, plain),
        _is_asked_alike(template, plain),
        _keeps_history(template, (ASK, ANSWER, AGAIN, LAST), "earlier answers"),
        _keeps_history(template, (ASK, THOUGHT, AGAIN, LAST), "the reasoning of earlier answers"),
        _takes_system(template),
        _shows_tools(template) if has_tools else None,
    )
    return [found for found in tried if found]


def _render(template: ChatTemplate, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> Rendered:
    return template.render(Example(HERE, messages=tuple(messages), tools=tuple(tools)))


def _begins_twice(template: ChatTemplate, plain: Rendered) -> Finding | None:
    bos = template.tokenizer.bos_id
    ids = template.tokenizer.encode(plain.text)
    if bos is None or ids[:2] != [bos, bos]:
        return None
    said = f"a row begins with two begin tokens ({template.tokenizer.bos_token!r}); the model knows one."
    return _problem("T06", "double-begin-token", said, "warning", fix="Take it out of the template.")


def _ends(template: ChatTemplate, plain: Rendered) -> Finding | None:
    if plain.turns and plain.turns[-1].expected.endswith(template.terminator):
        return None
    said = "the last answer has no end that could be learned; the model will not stop."
    return _problem("T07", "terminator-not-learned", said, "error", fix="End the assistant's turn with an end token.")


def _is_asked_alike(template: ChatTemplate, plain: Rendered) -> Finding | None:
    asked = template.render_prompt((ASK,))
    if plain.text.startswith(asked):
        return None
    said = f"what the model is asked at inference ({asked[-40:]!r}) is not how a training row begins."
    fix = "Make the template's generation prompt the beginning of the assistant's turn."
    return _problem("T08", "prompt-not-a-prefix", said, "warning", fix=fix)


def _keeps_history(template: ChatTemplate, messages: tuple[Message, ...], what: str) -> Finding | None:
    """Return a finding when an answer reads otherwise once other turns follow."""
    try:
        first, whole = _render(template, messages[:2]), _render(template, messages)
    except TemplateError as error:
        if any(message.reasoning for message in messages):
            return None  # a template that shows no reasoning: rows that have some are refused by name
        return _problem("T03", "history-refused", f"several turns are refused: {_first(error)}", "info")
    told = first.text[: first.turns[-1].end]  # what follows an answer's end may differ: it is not learned with it
    if whole.text.startswith(told):
        return None
    said = f"it rewrites history: {what} read otherwise once other turns follow."
    return _problem("T03", "rewritten-history", said, "info", fix='data.mask = "last" learns the last answer only.')


def _takes_system(template: ChatTemplate) -> Finding | None:
    try:
        _render(template, (SYSTEM, ASK, ANSWER))
    except TemplateError as error:
        said = f"rows with a system prompt are refused: {_first(error)}"
        return _problem("T09", "no-system-role", said, "info", fix="Put the system prompt into the first question.")
    return None


def _shows_tools(template: ChatTemplate) -> Finding | None:
    try:
        shown = _render(template, (ASK, ANSWER), (TOOL,)).text
    except TemplateError:
        return _problem("T10", "no-tools", "tool definitions are not shown; rows that have some are refused.", "info")
    if "count_legs" in shown:
        return None
    return _problem("T10", "no-tools", "tool definitions are not shown; rows that have some lose them.", "info")


def _problem(identity: str, name: str, said: str, severity: Severity, *, fix: str = "") -> Finding:
    return Finding(identity, name, severity, 0, 0.0, f"chat template: {said}", fix)


def _first(error: TemplateError) -> str:
    """Return what a template complains about, without the place of the test row."""
    return str(error).splitlines()[0].removeprefix(f"{HERE} ")

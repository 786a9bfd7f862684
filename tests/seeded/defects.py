"""Faulty rows, one function for each rule: every call returns the shape of the fault and a row that has it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.seeded import markers
from tests.seeded.clean import TICKET_SYSTEM, Row, chat, code, conversation, prose, tool_call
from tests.seeded.words import POOLS, Dice, paragraph, question, sentences

Fault = tuple[str, Row]  # the shape, and the row


def template_in_content(dice: Dice) -> Fault:
    """Chat markup inside a question or an answer."""
    row = prose(dice)
    message = dice.pick(row["messages"])
    shape = dice.pick(markers.MARKUP)
    message["content"] = shape.replace("{}", message["content"])
    return shape, row


def role_order(dice: Dice) -> Fault:
    """Turns in an order that no chat has."""
    user, assistant, user2, assistant2 = conversation(dice)["messages"][:4]
    system = {"role": "system", "content": sentences(1, dice)[0]}
    result = {"role": "tool", "tool_call_id": "call_none", "content": '{"found": 3}'}
    shapes = {
        "two questions in a row": [user, user2, assistant],
        "a question last": [user, assistant, user2],
        "an answer first": [assistant, user, assistant2],
        "system in the middle": [user, assistant, system, user2, assistant2],
        "a result without a call": [user, result, assistant],
        "no answer at all": [user, user2],
        "a result last": [user, assistant, user2, result],
    }
    shape = dice.pick(list(shapes))
    return shape, {"messages": shapes[shape]}


def wrong_result(dice: Dice) -> Fault:
    """A tool result that answers another call."""
    row = tool_call(dice)
    row["messages"][2]["tool_call_id"] = "call_" + dice.text("uvwxyz", 8)
    return "the result of another call", row


def truncated_answer(dice: Dice) -> Fault:
    """An answer that stops in the middle of a sentence, a list or a block of code."""
    asked, said = question(dice), sentences(6 + dice.below(3), dice)
    shape = dice.pick(("prose", "prose", "comma", "list", "code"))
    cut = re.sub(r"\W+$", "", " ".join(said[-1].split()[:-3]))
    if shape == "code":
        block = code(dice)["messages"][1]["content"].split("\n```")[0]
        return shape, chat(asked, f"{' '.join(said)}\n\n{block}")
    if shape == "list":
        points = [f"{at}. {text}" for at, text in enumerate(said[:-1], start=1)]
        return shape, chat(asked, "\n".join([*points, f"{len(said)}. {said[0]} {cut}"]))
    return shape, chat(asked, " ".join([*said[:-1], cut]) + ("," if shape == "comma" else ""))


def placeholder(dice: Dice) -> Fault:
    """A slot that nobody filled, or a filler for an answer."""
    if dice.random() < 0.3:
        filler = dice.pick(markers.FILLERS)
        return filler, chat(question(dice), filler)
    shape = dice.pick(markers.SLOTS)
    return shape, chat(question(dice), shape.replace("{}", paragraph(dice, 2, 4)))


def empty_prompt(dice: Dice) -> Fault:
    """A question without a visible character."""
    shape = dice.pick(("", " ", "\n", "\t \n", "\u00a0", "\u200b"))
    return repr(shape), chat(shape, paragraph(dice))


def empty_answer(dice: Dice) -> Fault:
    """An answer without a visible character."""
    shape = dice.pick(("", " ", "\n\n"))
    return repr(shape), chat(question(dice), shape)


def language(dice: Dice) -> Fault:
    """An answer in another language than the question."""
    at = dice.below(len(POOLS["foreign"]))
    if dice.random() < 0.25:
        return f"English to {at}", chat(POOLS["foreign"][at] + f" {1 + dice.below(900)}?", paragraph(dice))
    return f"{at} to English", chat(question(dice), POOLS["foreign"][at])


def refusal(dice: Dice) -> Fault:
    """An answer that refuses."""
    shape = dice.pick(markers.REFUSALS)
    return shape, chat(question(dice), shape.replace("{}", paragraph(dice, 1, 2)).strip())


def secret(dice: Dice) -> Fault:
    """A key or password in the question or in the answer."""
    return _with(dice, *markers.secret(dice))


def personal_data(dice: Dice) -> Fault:
    """Personal data in the question or in the answer."""
    return _with(dice, *markers.personal(dice))


def broken_characters(dice: Dice) -> Fault:
    """What a wrong encoding left behind, in the question or in the answer."""
    row = prose(dice)
    message = dice.pick(row["messages"])
    shape, message["content"] = markers.garbled(message["content"], dice)
    return shape, row


def _with(dice: Dice, shape: str, text: str) -> Fault:
    row = prose(dice)
    message = dice.pick(row["messages"])
    message["content"] = dice.pick((f"{message['content']}\n{text}", f"{text} {message['content']}"))
    return shape, row


def _ticket(ticket: Row, answer: str) -> Row:
    """A ticket with another answer."""
    return chat(ticket["messages"][1]["content"], answer, system=TICKET_SYSTEM)


def broken_structure(dice: Dice, ticket: Row) -> Fault:
    """A ticket whose JSON is broken in one way."""
    text = ticket["messages"][2]["content"]
    answer: Mapping[str, Any] = json.loads(text)
    order = answer["order"] or 1000 + dice.below(9000)
    shapes = {
        "comma at the end": text[:-1] + ",}",
        "cut": text[: -8 - dice.below(20)],
        "single quotes": text.replace('"', "'"),
        "bare keys": re.sub(r'"(\w+)":', r"\1:", text),
        "no comma": text.replace('","', '" "', 1),
        "key twice": '{"issue":"setup",' + text[1:],
        "number as text": _compact({**answer, "order": str(order)}),
        "field missing": _compact({key: value for key, value in answer.items() if key != dice.pick(list(answer)[:4])}),
        "field of another kind": _compact({**answer, "product": {"name": answer["product"]}}),
        "field misspelled": text.replace('"urgency"', '"urgencey"'),
        "fenced": f"```json\n{text}\n```",
        "in a list": f"[{text}]",
        "text behind": f"{text}\nI hope this helps.",
    }
    if "field missing" in shapes and len(json.loads(shapes["field missing"])) == 5:
        shapes["field missing"] = _compact({key: value for key, value in answer.items() if key != "urgency"})
    shape = dice.pick(list(shapes))
    return shape, _ticket(ticket, shapes[shape])


def broken_call(dice: Dice) -> Fault:
    """A tool call whose arguments are no JSON, break the tool's schema, or whose tool was not offered."""
    row = tool_call(dice)
    function = row["messages"][1]["tool_calls"][0]["function"]
    arguments = json.loads(function["arguments"])
    first = next(iter(arguments))
    shapes: dict[str, Callable[[], Any]] = {
        "arguments cut": lambda: function.update(arguments=function["arguments"][:-2]),
        "argument missing": lambda: function.update(
            arguments=json.dumps({key: value for key, value in arguments.items() if key != first})
        ),
        "argument of another kind": lambda: function.update(arguments=json.dumps({**arguments, first: [7]})),
        "unknown argument": lambda: function.update(arguments=json.dumps({**arguments, "colour": "red"})),
        "unknown tool": lambda: function.update(name="find_" + dice.pick(POOLS["thing"])),
    }
    shape = dice.pick(list(shapes))
    shapes[shape]()
    return shape, row


def mixed_format(dice: Dice, ticket: Row) -> Fault:
    """A ticket whose answer is right, but not JSON."""
    answer: Mapping[str, Any] = json.loads(ticket["messages"][2]["content"])
    shapes = {
        "prose": f"The customer wants to {answer['action']} the {answer['product']}.",
        "yaml": "\n".join(f"{key}: {value}" for key, value in answer.items()),
        "xml": "<ticket>" + "".join(f"<{key}>{value}</{key}>" for key, value in answer.items()) + "</ticket>",
        "table": "| " + " | ".join(answer) + " |\n|" + "---|" * 5 + f"\n| {' | '.join(map(str, answer.values()))} |",
        "list": "\n".join(f"- **{key}**: {value}" for key, value in answer.items()),
        "label": str(answer["issue"]),
    }
    shape = dice.pick(list(shapes))
    return shape, _ticket(ticket, shapes[shape])


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


# Copies of rows: each takes a clean row and gives it back changed.


def duplicate(row: Row, dice: Dice) -> Fault:
    """The same row again, at most written with other capitals, spaces or widths of letters."""
    shape = dice.pick(("exact", "exact", "capitals", "spaces", "wide letters"))
    changes: dict[str, Callable[[str], str]] = {
        "exact": str,
        "capitals": str.upper,
        "spaces": lambda text: text.replace(" ", "  ") + "\n",
        "wide letters": lambda text: re.sub(r"\b[A-Z]", lambda found: chr(ord(found[0]) + 0xFEE0), text, count=2),
    }
    return shape, _changed(row, 0, changes[shape])


def near_duplicate(row: Row, dice: Dice) -> Fault:
    """The same row with a word or two of another make."""
    shape = dice.pick(("a word of the answer", "a word of each", "thanks", "a word less"))
    if shape == "thanks":
        return shape, _changed(row, 0, lambda text: f"{text} Thank you kindly!")
    copied = _changed(row, -1, lambda text: _other_word(text, dice, gone=shape == "a word less"))
    return shape, _changed(copied, 0, lambda text: _other_word(text, dice)) if shape == "a word of each" else copied


def other_answer(row: Row, answer: str) -> Row:
    """The row with another last answer."""
    return _changed(row, -1, lambda _: answer)


def _changed(row: Row, at: int, change: Callable[[str], str]) -> Row:
    """A copy of the row with the text of one turn changed."""
    copied = copy.deepcopy(row)
    copied["messages"][at]["content"] = change(copied["messages"][at]["content"])
    return copied


def _other_word(text: str, dice: Dice, *, gone: bool = False) -> str:
    """The text with one word of letters replaced, or without it."""
    found = dice.pick(list(re.finditer(r"\b[a-z]{3,}\b", text)))
    return text[: found.start()] + ("" if gone else dice.pick(POOLS["thing"])) + text[found.end() :]


BY_ITSELF: Mapping[str, tuple[Callable[[Dice], Fault], ...]] = {
    "template-in-content": (template_in_content,),
    "role-order": (role_order, role_order, role_order, wrong_result),
    "truncated-answer": (truncated_answer,),
    "placeholder": (placeholder,),
    "empty-prompt": (empty_prompt,),
    "empty-answer": (empty_answer,),
    "language": (language,),
    "refusal": (refusal,),
    "secret": (secret,),
    "personal-data": (personal_data,),
    "broken-characters": (broken_characters,),
}

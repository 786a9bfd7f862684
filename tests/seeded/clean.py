"""Clean rows of several kinds, as messages: prose, conversations, tickets, labels, code, tool calls and traps.

A trap looks like a fault and is none: a question about a template, a poem without full stops, a sample key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attune.bundled import tickets_folder
from tests.seeded.words import (
    POOLS,
    Dice,
    fill,
    paragraph,
    question,
    sentences,
)

Row = dict[str, Any]

TICKET_SYSTEM = "Note the ticket down as one JSON object with product, issue, urgency, action and order."
LABELS = ("repair", "delivery", "price", "advice", "praise", "complaint", "opening hours", "lessons")
LABEL_TASK = f"Sort the message into one of these classes: {', '.join(LABELS)}. Answer with the class alone."


def chat(asked: str, answer: str, **more: Any) -> Row:
    """A row with one question and its answer; `system` and other columns may be given."""
    system = more.pop("system", None)
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": [*first, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}], **more}


def prose(dice: Dice) -> Row:
    """A question with an answer of some sentences, at times as a list."""
    asked = question(dice)
    if dice.random() < 0.15:
        steps = [f"{number}. {text}" for number, text in enumerate(sentences(3 + dice.below(4), dice), start=1)]
        return chat(asked, "\n".join([sentences(1, dice)[0], "", *steps]))
    return chat(asked, paragraph(dice))


def conversation(dice: Dice) -> Row:
    """Two or three rounds; the later questions are short, and the same in many rows."""
    messages = chat(question(dice), paragraph(dice, 2, 4))["messages"]
    for _ in range(1 + dice.below(2)):
        messages += chat(fill(dice.pick(POOLS["follow_up"]), dice), paragraph(dice, 2, 4))["messages"]
    return {"messages": messages}


def read_tickets(name: str) -> list[Row]:
    """The rows of a split of the bundled task, under one system prompt."""
    lines = (tickets_folder() / f"{name}.jsonl").read_text(encoding="ascii").splitlines()
    rows = [json.loads(line) for line in lines]
    return [chat(row["prompt"], row["completion"], system=TICKET_SYSTEM) for row in rows]


def label(dice: Dice) -> Row:
    """A message to sort into a class; the instruction is the same in all rows."""
    said = " ".join(fill(dice.pick(POOLS["message"]), dice) for _ in range(2))
    return chat(f"{LABEL_TASK}\n\nMessage: {said}", dice.pick(LABELS))


def code(dice: Dice) -> Row:
    """A small function in one of three languages, fenced, with a sentence after it."""
    first, second, third = (dice.pick(POOLS["thing"]) for _ in range(3))
    deed, kind = dice.pick(POOLS["deed"]), dice.pick(POOLS["kind"])
    number = 2 + dice.below(97)
    name = f"{deed}_{kind}_{first}s"
    lines = {
        "python": [
            f"total_{second} = sum(item.{third} for item in {first}s)",
            f"{first}s = [{second} for {second} in {first}s if {second}.is_{kind}]",
            f"{third} = max({first}s, key=lambda {second}: {second}.{deed}s)",
            f'{third}_by_{second} = {{entry["{second}"]: entry for entry in {first}s}}',
            f'if len({first}s) > {number}:\n        raise ValueError(f"{number} {first}s at most")',
            f"for {second} in sorted({first}s):\n        {second}.{deed}({number})",
            f"while {second} < {number}:\n        {second} += {third}",
        ],
        "javascript": [
            f"const {kind}{second.title()} = {first}s.filter((it) => it.{third} > {number});",
            f"let {third} = {first}s.reduce((sum, it) => sum + it.{second}, {number});",
            f"if (!{first}s.length) {{\n    return {number};\n  }}",
            f"{first}s.forEach((it) => it.{deed}({number}));",
            f"const {third}s = new Map({first}s.map((it) => [it.{second}, it]));",
        ],
        "sql": [
            f"SELECT {second}, COUNT(*) AS {third}s FROM {first}s",
            f"WHERE {third} > {number} AND {second} LIKE '{kind}%'",
        ],
    }
    language = dice.pick(("python", "python", "javascript", "sql"))
    if language == "sql":
        body = "\n".join([*lines["sql"], f"GROUP BY {second}", f"ORDER BY {third}s DESC LIMIT {number};"])
        wish = f"that counts the {kind} {first}s for each {second} with more than {number} {third}s"
        return chat(f"Write a query {wish}.", f"```sql\n{body}\n```\n\n{sentences(1, dice)[0]}")
    chosen = dice.mix(lines[language])[: 2 + dice.below(3)]
    if language == "python":
        body = f"def {name}({first}s, {second}, {third}):\n    " + "\n    ".join([*chosen, f"return {third}"])
    else:
        body = f"function {name}({first}s) {{\n  " + "\n  ".join([*chosen, f"return {first}s;"]) + "\n}"
    asked = fill(f"Write a {language} function for a <craft> in <place> to {deed} {kind} {first}s.", dice)
    return chat(asked, f"```{language}\n{body}\n```\n\n{sentences(1, dice)[0]}")


def tool(name: str, says: str, **fields: Mapping[str, Any]) -> Row:
    """The definition of a tool whose arguments are all required."""
    parameters = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": says, "parameters": parameters}}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
TOOLS = {
    "find_craft": tool("find_craft", "Find a craftsman.", craft=TEXT, place=TEXT),
    "price_of": tool("price_of", "The price of so many pieces.", thing=TEXT, pieces=WHOLE),
    "book_lesson": tool("book_lesson", "Book a lesson.", field=TEXT, hours=WHOLE, level={"enum": ["first", "next"]}),
    "stock": tool("stock", "What a shop has.", place=TEXT, things={"type": "array", "items": TEXT}),
}


def tool_call(dice: Dice) -> Row:
    """A question, the call of a tool that was offered, its result, and an answer from it."""
    thing, thing2 = dice.pick(POOLS["thing"]), dice.pick(POOLS["thing"])
    craft, place, count = dice.pick(POOLS["craft"]), fill("<place>", dice), 2 + dice.below(300)
    field, who = dice.pick(POOLS["field"]), fill("<name>", dice)
    name, asked, arguments, result, answer = dice.pick(
        (
            (
                "find_craft",
                f"I need a {craft} near {place} for my {thing}.",
                {"craft": craft, "place": place},
                {"name": who, "miles": count},
                f"{who} is a {craft} {count} miles from {place} and can look at the {thing}.",
            ),
            (
                "price_of",
                f"What would {count} {thing}s cost for {who} in {place}?",
                {"thing": thing, "pieces": count},
                {"price": count * 7},
                f"For {who} the {thing}s come to {count * 7} crowns, carriage to {place} included.",
            ),
            (
                "book_lesson",
                f"Put {who} from {place} down for {count} hours of {field}.",
                {"field": field, "hours": count, "level": dice.pick(("first", "next"))},
                {"booked": True, "teacher": craft},
                f"Done: {who} has {count} hours of {field} in {place} with the {craft}.",
            ),
            (
                "stock",
                f"Does the shop in {place} have a {thing} or a {thing2} for {who}?",
                {"place": place, "things": [thing, thing2]},
                {thing: count, thing2: 0},
                f"Yes, in {place} there are {count} of the {thing}, but no {thing2} for {who}.",
            ),
        )
    )
    identity = f"call_{dice.text('abcdefghkmnp', 8)}"
    call = {"id": identity, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    others = [TOOLS[other] for other in dice.mix(TOOLS) if other != name][: dice.below(3)]
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": identity, "content": json.dumps(result)},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "tools": [TOOLS[name], *others]}


# Each is (question, answer); <ask> and <say> are a made-up question and sentence, so that no trap comes twice.
TRAPS = (
    ("How do I strike text out in HTML? <ask>", "Write <s>old price</s> around it, then the new one. <say>"),
    (
        "Which control tokens does ChatML use? <ask>",
        "A turn opens with `<|im_start|>` and ends with `<|im_end|>`. <say>",
    ),
    ("Show a Jinja greeting. <ask>", "```jinja\nHello {{ name }}, welcome to {{ place }}!\n```\n\n<say>"),
    ("Write a letter template with slots for the name. <ask>", "Dear [Name],\n\n<say>\n\nYours,\n[Your name]"),
    ("Fill the greeting {{name}} in for a baker called Ned. <ask>", "Hello Ned, and welcome. <say>"),
    ("Write a verse. <ask>", "<say>\n\nThe lantern swings above the door\nThe rain has nothing left to say"),
    (
        "Name some tools. <ask>",
        "<say>\n\n- a small hammer with a handle of ash\n- a file\n- two clamps of different length",
    ),
    ("Give an example of a contact line. <ask>", "Write to info@example.com or call 555-0142. <say>"),
    ("What does an AWS key look like? <ask>", "The manual shows AKIAIOSFODNN7EXAMPLE as a sample. <say>"),
    ("How are passwords stored? <ask>", "Set password: str = os.environ['PASSWORD'] and hash it with a salt. <say>"),
    (
        "Translate into German: the lamp stands on the old table. <ask>",
        "Die Lampe steht auf dem alten Tisch und brennt.",
    ),
    (
        "Sag mir bitte, wie man eine alte Lampe reinigt.",
        "Die Lampe sollte man mit einem weichen Tuch und etwas Wasser reinigen.",
    ),
    ("Was that wrong of me? <ask>", "I'm sorry to hear that you worry; it was no mistake at all. <say>"),
    (
        "Show how a compose key is used. <ask>",
        "It gives caf\u00e9, na\u00efve, \u00a3 5 and 20 \u20ac. \u201cQuoted\u201d \u2013 and a dash. <say>",
    ),
    (
        "Use an emoji family. <ask>",
        "Here it is: \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \u2764\ufe0f. <say>",
    ),
    (
        "Give the address of a page to read. <ask>",
        "<say> <say> <say> <say> See https://docs.example.org/a/long/page/about-it",
    ),
    ("Write three dots on a line. <ask>", "...\n\n<say>"),
    ("What is the number of the order? <ask>", "Order 4111 2222 of 2024-03-15, item 978-3-16-148410-0. <say>"),
    ("Show a diff. <ask>", "```diff\n- old [INST] line\n+ new line\n```\n\n<say>"),
    ("Write JSON with a name. <ask>", '```json\n{"name": "Ned", "age": 40}\n```\n\n<say>'),
    ("Yes or no: is it common? <ask>", "Yes"),
    ("Finish with a list of steps. <ask>", "<say>\n\n### Steps\n\n1. Look\n2. Wait\n3. Decide"),
)


def trap(dice: Dice) -> Row:
    """A row that looks faulty in one respect and is not."""

    def written(text: str) -> str:
        while "<say>" in text:
            text = text.replace("<say>", sentences(1, dice)[0], 1)
        return text.replace("<ask>", question(dice))

    asked, answer = dice.pick(TRAPS)
    return chat(written(asked), written(answer))


SHARES = {
    "prose": 0.34,
    "conversation": 0.12,
    "tickets": 0.2,
    "label": 0.14,
    "code": 0.08,
    "tool_call": 0.09,
    "trap": 0.03,
}
MAKERS = {
    "prose": prose,
    "conversation": conversation,
    "label": label,
    "code": code,
    "tool_call": tool_call,
    "trap": trap,
}


def prompt_of(row: Row) -> str:
    """What comes before the last answer, in small letters: no two clean rows share it."""
    return json.dumps(row["messages"][:-1]).lower()


def clean_rows(
    counts: Mapping[str, int], dice: Dice, *, tickets: Sequence[Row], seen: set[str]
) -> Iterator[tuple[str, Row]]:
    """Yield (kind, row), so many of each kind; no row has a prompt that is in `seen`, which grows."""
    for kind, count in counts.items():
        if kind == "tickets":
            yield from ((kind, row) for row in tickets[:count])
            continue
        made = 0
        tries = 0
        while made < count and tries < 50 * count:
            tries += 1
            row = MAKERS[kind](dice)
            if prompt_of(row) in seen:
                continue
            seen.add(prompt_of(row))
            made += 1
            yield kind, row

"""The rules by name: their ids, how bad they are at most, what they mean for training and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attune.types import Severity


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of fault. `harm` says what training would make of it, `fix` what to do; both are whole sentences."""

    id: str
    name: str
    severity: Severity  # at most; a finding may be milder
    title: str  # what such rows do, after "12 rows": "hold an unfilled slot"
    harm: str
    fix: str


@dataclass(frozen=True, slots=True)
class Found:
    """What one rule found. `rows` are numbers of the survey's rows, ascending; `texts` what was seen in them.

    `detail` is a sentence of figures for this finding, `severity` overrides the rule's own.
    """

    name: str  # in RULES
    rows: Sequence[int]
    texts: Mapping[int, str] = field(default_factory=dict)
    detail: str = ""
    severity: Severity | None = None


_ALL = (
    Rule(
        "D01",
        "no-stop",
        "error",
        "never show the model how to stop",
        "Answers will run on.",
        "Raise data.max_length, or drop such rows with data.overlong = drop.",
    ),
    Rule(
        "D02",
        "template-in-content",
        "error",
        "already carry chat markup",
        "It would be wrapped twice.",
        "Give the bare messages; the chat template adds the markup.",
    ),
    Rule(
        "D03",
        "role-order",
        "error",
        "have turns in an order that no chat has",
        "The last question is not answered, or an answer has no question: nothing or the wrong thing is learned.",
        "Mend the turns: system, then user and assistant by turns, ending with assistant.",
    ),
    Rule(
        "D04",
        "split-leak",
        "error",
        "of the held-out rows repeat training rows",
        "Validation will look better than it is.",
        "Take them out of one set: attune check --fix does, or let attune split by cluster (no data.valid).",
    ),
    Rule(
        "D04",
        "shared-passage",
        "warning",
        "of the held-out rows share a long passage with a training row",
        "Part of their answers may have been learned by heart.",
        "Look at the pairs; quoted texts and boilerplate are harmless, copied answers are not.",
    ),
    Rule(
        "D05",
        "conflict",
        "error",
        "give another answer to the same question",
        "The model will learn the mixture.",
        "Decide which answer is right; attune never guesses.",
    ),
    Rule(
        "D05",
        "several-answers",
        "info",
        "are further long answers to a question that has one",
        "Wanted if you mean variety.",
        "",
    ),
    Rule(
        "D06",
        "duplicate",
        "warning",
        "repeat an earlier row",
        "Each copy is trained once more in every epoch.",
        "attune check --fix OUT keeps the first of each; data.duplicates = drop trains without copies.",
    ),
    Rule(
        "D06",
        "near-duplicate",
        "warning",
        "repeat an earlier row almost word for word",
        "They add weight, not knowledge.",
        "attune check --fix OUT keeps the first of each group.",
    ),
    Rule(
        "D07",
        "broken-structure",
        "error",
        "break the format that the other answers keep",
        "The model will learn to break it too.",
        "Mend the answers.",
    ),
    Rule(
        "D08",
        "truncated-answer",
        "warning",
        "have an answer that seems cut off",
        "The model learns to stop in the middle of a sentence.",
        "Finish or drop these answers.",
    ),
    Rule(
        "D08",
        "length-pile-up",
        "warning",
        "have answers that end at the same greatest length",
        "The program that wrote them cut them there.",
        "Look at their ends; write them again with a higher limit.",
    ),
    Rule(
        "D09",
        "opener-concentration",
        "error",
        "begin with the same words",
        "Expect every reply to.",
        "Rewrite some of the openings, or take fewer of these rows.",
    ),
    Rule(
        "D10",
        "placeholder",
        "error",
        "hold a slot that nobody filled",
        "The model will say it.",
        "Fill the slots, or drop the rows: attune check --fix OUT does.",
    ),
    Rule(
        "D10",
        "empty-prompt",
        "warning",
        "ask nothing",
        "The model learns to answer out of the blue.",
        "Write the questions, or drop the rows: attune check --fix OUT does.",
    ),
    Rule(
        "D11",
        "mismatch",
        "warning",
        "of the real prompts are unlike the training prompts",
        "The tuned model is trained for another use than it gets.",
        "Add rows like the prompts that are listed.",
    ),
    Rule(
        "D12",
        "truncation",
        "error",
        "are longer than data.max_length",
        "What lies beyond it is not learned.",
        "Raise data.max_length, or data.overlong = split.",
    ),
    Rule(
        "D13",
        "language",
        "warning",
        "answer in another language than they are asked in",
        "The model will switch languages.",
        "Mend the rows, or say in the prompt which language is wanted.",
    ),
    Rule(
        "D14",
        "refusal",
        "warning",
        "refuse to answer",
        "The tuned model will refuse more, also where it should not.",
        "Keep only the refusals you want.",
    ),
    Rule(
        "D15",
        "secret",
        "error",
        "hold what looks like a key or password",
        "A tuned model can give it away.",
        "Take it out, and change it where it was in use.",
    ),
    Rule(
        "D15",
        "personal-data",
        "warning",
        "hold what looks like personal data",
        "A tuned model can give it away.",
        "Take it out or make it up.",
    ),
    Rule(
        "D15",
        "sample-data",
        "info",
        "hold addresses, numbers or keys of the kind that examples are made of",
        "Harmless, if nobody real has them.",
        "",
    ),
    Rule(
        "D16",
        "mixed-format",
        "warning",
        "answer in another format than the rest of their task",
        "The model will mix formats.",
        "Bring the answers into one format.",
    ),
    Rule(
        "D17",
        "weak-prompt",
        "info",
        "have an answer that the prompt hardly makes likelier",
        "Answer and prompt may not belong together.",
        "Look at the rows.",
    ),
    Rule(
        "D18",
        "loss-outlier",
        "info",
        "have an answer that the model finds far less likely than others of its length",
        "Noise, another language, or a kind of answer that is rare here.",
        "Look at the rows.",
    ),
    Rule(
        "R05",
        "broken-characters",
        "warning",
        "hold characters that a wrong encoding left behind",
        "The model will write them.",
        "attune check --fix OUT mends what is certain.",
    ),
)
RULES: Mapping[str, Rule] = {rule.name: rule for rule in _ALL}

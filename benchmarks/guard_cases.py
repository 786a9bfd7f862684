"""The runs of guards.py: sick ones, each with the alarms that must speak and what its damage is, and clean ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.guard_rows import (
    Row,
    draw_file,
    draw_tickets,
    label,
    letter,
    mix_lengths,
    open_alike,
    plant_noise,
    shuffle_answers,
    ticket,
)

Damage = Literal["valid", "general", "sure", "spent", "idle", "noise"]
Model = Literal["starter", "chat", "scrambled"]

DAMAGES: Mapping[str, str] = {
    "valid": "validation loss above its lowest",
    "general": "loss on general text above that of the base model",
    "sure": 'steps, each as the share of answers that begin with "Sure!"',
    "spent": "steps trained with the fault",
    "idle": "steps trained after training answers are right to 98 %",
    "noise": "noisy rows trained on",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a run; without validation rows the run holds some out of its own."""

    train: Sequence[Row]
    valid: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """What rows are made from: dice of the seed, and a file of other rows where one was given."""

    dice: random.Random
    text: Path | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of run. One alarm of `expects` must speak, and likewise one of each set of `also`.

    `fault` names what is put in from outside (guard_faults.FAULTS). A case without `expects` is clean.
    """

    name: str
    words: str
    rows: Callable[[Draw], Rows]
    settings: Mapping[str, Any]
    expects: tuple[str, ...] = ()
    also: tuple[tuple[str, ...], ...] = ()
    damage: Damage = "spent"
    fault: str = ""
    model: Model = "starter"
    needs_text: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.expects


def _steps(steps: int, rows: int, every: int, rate: float | None = None) -> dict[str, Any]:
    """Return the settings of a run of so many steps of so many rows with a validation every so many steps."""
    found: dict[str, Any] = {"train.steps": steps, "train.batch_rows": rows, "valid.every": every}
    return found if rate is None else found | {"train.learning_rate": rate}


def _tickets(draw: Draw, train: int, valid: int) -> Rows:
    return Rows(draw_tickets(draw.dice, "train", train, ticket), draw_tickets(draw.dice, "valid", valid, ticket))


def _letters(draw: Draw, train: int, valid: int) -> Rows:
    return Rows(draw_tickets(draw.dice, "train", train, letter), draw_tickets(draw.dice, "valid", valid, letter))


def _labels(draw: Draw, train: int, valid: int) -> Rows:
    return Rows(draw_tickets(draw.dice, "train", train, label), draw_tickets(draw.dice, "valid", valid, label))


def _sure(draw: Draw, *, clean_valid: bool) -> Rows:
    rows = _letters(draw, 400, 48)
    said = open_alike(draw.dice, rows.train)
    return Rows(said, rows.valid) if clean_valid else Rows(said)


def _shuffled(draw: Draw) -> Rows:
    rows = _labels(draw, 96, 128)
    return Rows(shuffle_answers(draw.dice, rows.train), shuffle_answers(draw.dice, rows.valid))


def _other_kind(draw: Draw) -> Rows:
    return Rows(draw_tickets(draw.dice, "train", 400, ticket), draw_tickets(draw.dice, "valid", 48, letter))


def _noisy(draw: Draw) -> Rows:
    rows = _tickets(draw, 720, 24)
    return Rows(plant_noise(draw.dice, rows.train, NOISY_ROWS), rows.valid)


def _mixed_lengths(draw: Draw) -> Rows:
    rows = _letters(draw, 200, 16)
    return Rows(mix_lengths(draw.dice, rows.train), rows.valid)


def _from_file(draw: Draw) -> Rows:
    assert draw.text is not None, "this case needs rows from a file"
    rows = draw_file(draw.dice, draw.text, 448)
    return Rows(rows[48:], rows[:48])


NOISY_ROWS = 4
ALLOWED = ("D01", "D05", "D07", "D09", "D12")  # what attune check refuses in sick rows, and the guards must see again

SICK = (
    Case(
        "overfit",
        "50 rows of free text, 10 passes",
        lambda draw: _letters(draw, 50, 64),
        _steps(64, 8, 4, 5e-4),
        ("overfit",),
        damage="valid",
    ),
    Case(
        "memorised",
        "48 tickets, 16 passes",
        lambda draw: _tickets(draw, 48, 32),
        _steps(96, 8, 6, 1e-3),
        ("memorised",),
        damage="idle",
    ),
    Case(
        "sure",
        '90 % of free-text answers begin with "Sure!", held-out rows too',
        lambda draw: _sure(draw, clean_valid=False),
        _steps(48, 8, 4),
        ("same-openers", "opener-collapse"),
        damage="sure",
    ),
    Case(
        "sure-clean-valid",
        '90 % of free-text answers begin with "Sure!", validation rows do not',
        lambda draw: _sure(draw, clean_valid=True),
        _steps(48, 8, 4),
        ("opener-collapse",),
        damage="sure",
    ),
    Case(
        "shuffled-labels",
        "labels dealt out at random, in training and validation",
        _shuffled,
        _steps(144, 8, 4, 7e-4),
        ("overfit", "mismatch"),
        damage="valid",
    ),
    Case(
        "forgets",
        "full fine-tuning with a learning rate of 2e-3",
        lambda draw: _tickets(draw, 256, 32),
        _steps(48, 8, 4, 2e-3),
        ("forgetting",),
        damage="general",
    ),
    Case(
        "wrong-template",
        "a model tuned with chatml, trained on with plain",
        lambda draw: _tickets(draw, 160, 32),
        {**_steps(16, 8, 4), "data.template": "plain"},
        ("wrong-template",),
        model="chat",
    ),
    Case(
        "other-vocabulary",
        "weights whose vocabulary is in another order than the tokenizer's",
        lambda draw: _tickets(draw, 160, 32),
        _steps(16, 8, 4),
        ("strange-text",),
        model="scrambled",
    ),
    Case(
        "ends-masked",
        "no end token is learned",
        lambda draw: _tickets(draw, 256, 32),
        _steps(64, 8, 4),
        ("stop-not-taught",),
        also=(("stop-not-learned", "runs-on"),),
        fault="ends",
    ),
    Case(
        "not-finite",
        "NaN in the embeddings from step 24 on",
        lambda draw: _tickets(draw, 256, 32),
        _steps(32, 8, 16),
        ("not-finite",),
        fault="nan",
    ),
    Case(
        "other-validation",
        "trained on tickets, validated on free text",
        _other_kind,
        _steps(48, 8, 4),
        ("mismatch", "overfit"),
    ),
    Case(
        "noisy-rows",
        f"{NOISY_ROWS} rows of meaningless letters among 720",
        _noisy,
        _steps(180, 4, 60),
        ("spike",),
        damage="noise",
    ),
    Case(
        "diverges",
        "full fine-tuning with a learning rate of 0.1",
        lambda draw: _tickets(draw, 256, 32),
        _steps(64, 8, 16, 0.1),
        ("divergence",),
    ),
    Case(
        "prompts-learned",
        "questions are learned beside the answers",
        lambda draw: _tickets(draw, 64, 16),
        {**_steps(8, 8, 4), "data.share_prefixes": False},
        ("mask",),
        fault="prompts",
    ),
    Case(
        "cut",
        "free text cut after 40 tokens",
        lambda draw: _letters(draw, 200, 32),
        {**_steps(16, 8, 8), "data.max_length": 40, "data.overlong": "cut"},
        ("truncation",),
    ),
    Case(
        "uneven",
        "one-word answers, one in 17 of 250 words, two rows a step",
        _mixed_lengths,
        _steps(40, 2, 20),
        ("uneven-batches",),
    ),
)

_TWO_PASSES = _steps(80, 8, 8)
_ONE_PASS = _steps(50, 8, 5)
# LoRA's default for a model this small, 2e-3, makes it forget: such a run is not clean
_GENTLE = {"adapter.kind": "lora", "train.learning_rate": 5e-4}
_LORA = {**_TWO_PASSES, **_GENTLE}

CLEAN = (
    Case("tickets", "JSON, full", lambda draw: _tickets(draw, 320, 48), _TWO_PASSES),
    Case("tickets-lora", "JSON, LoRA", lambda draw: _tickets(draw, 320, 48), _LORA),
    Case("labels", "labels, full", lambda draw: _labels(draw, 320, 48), _TWO_PASSES),
    Case("labels-lora", "labels, LoRA", lambda draw: _labels(draw, 320, 48), _LORA),
    Case("letters", "free text, full", lambda draw: _letters(draw, 400, 48), _steps(64, 8, 8)),
    Case("letters-lora", "free text, LoRA", lambda draw: _letters(draw, 400, 48), {**_LORA, "train.steps": 64}),
    Case("chat", "JSON, a chat model", lambda draw: _tickets(draw, 320, 48), _TWO_PASSES, model="chat"),
    Case("text", "rows of --text, full", _from_file, _ONE_PASS, needs_text=True),
    Case("text-lora", "rows of --text, LoRA", _from_file, {**_ONE_PASS, **_GENTLE}, needs_text=True),
)  # fmt: skip

CASES: Mapping[str, Case] = {case.name: case for case in (*SICK, *CLEAN)}

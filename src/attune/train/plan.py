"""Will it fit, and how long will it take? An estimate from shapes, then the largest step measured, then a choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attune.config import Config
from attune.model.folder import model_length
from attune.train.run import Inputs, Listener, gather

if TYPE_CHECKING:  # torch and transformers are imported only after the data were found good
    from attune.train.estimate import Footprint, Memory
    from attune.train.measure import Measured
    from attune.train.work import Pile, Work

GB = 1e9
SAFE = 0.94  # share of the free memory that is planned with: allocators leave holes
SURE = 1.25  # an estimate so many times above what is free is believed, and nothing is tried
TRIES = 4  # measurements at most
GRAIN = 256  # micro_tokens are chosen in such steps
LARGEST = {"cpu": 4096, "cuda": 32768}  # more tokens at once bring no more speed
COMFORT = {"cpu": 512, "cuda": 8192}  # with fewer tokens at once, computing layers again is the lesser loss
USUAL_STEPS = 3  # that are timed
RELIEF: dict[str, tuple[dict[str, Any], ...]] = {  # what a run that does not fit could change, mildest first
    "cpu": ({"train.optimizer": "adamw_8bit"}, {"adapter.kind": "lora"}),
    "cuda": (
        {"train.optimizer": "adamw_8bit"},
        {"precision": "bfloat16"},
        {"precision": "bfloat16", "train.optimizer": "adamw_8bit"},
        {"precision": "bfloat16", "adapter.kind": "lora"},
        {"precision": "bfloat16", "adapter.kind": "qlora"},
    ),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a plan may choose: tokens computed at once, and how many layers are computed again."""

    micro_tokens: int
    checkpointed: int


def plan(config: Config, *, measuring: bool = True, on_event: Listener | None = None) -> Mapping[str, Any]:
    """Return the document of `attune plan`: what the run takes, whether it fits, and what to set so that it does.

    Raises the UserError that training would raise before its first step. A plan that does not fit is a result.
    """
    tell = on_event or _deaf
    inputs = gather(config, tell)
    from attune.train.estimate import footprint
    from attune.train.measure import free_bytes
    from attune.train.work import survey_work

    work = survey_work(inputs)
    _refuse_what_training_refuses(inputs, work)
    free = free_bytes(str(inputs.config.device))
    expected = footprint(inputs.base, inputs.config)
    bounds = bounds_of(config, inputs, work, layers=expected.stored.layers)
    plan_of = _Plan(inputs, work, expected, bounds, free)
    choice, measured = plan_of.settle(tell, measuring=measuring)
    return plan_of.document(choice, measured)


def _refuse_what_training_refuses(inputs: Inputs, work: Work) -> None:
    """Raise the ConfigError or ModelError of wishes that this device or these rows cannot meet."""
    import torch

    from attune.model.fp8 import check_fp8
    from attune.train.release import refuse_pieces

    config = inputs.config
    if config.train.fp8:
        check_fp8(torch.device(str(config.device)))
    refuse_pieces(config, work.corpus, work.stream, share=config.data.share_prefixes is not False)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between what a plan may choose: micro_tokens from `least` to `most`, layers computed again from `few` to `many`.

    What the user set is not chosen: then both ends are the same. Below `comfort` tokens, computing layers again is the
    lesser loss. All numbers of tokens are whole grains apart.
    """

    least: int
    comfort: int
    most: int
    few: int
    many: int


def bounds_of(wished: Config, inputs: Inputs, work: Work, *, layers: int) -> Bounds:
    """Return what is free to choose: settings that were `auto` before they were resolved."""
    device, train = str(inputs.config.device), wished.train
    if train.micro_tokens == "auto":
        # a micro-batch is never smaller than a row, and no larger than a step
        least = _up(min(int(work.rows.sizes[0]), LARGEST[device]))
        most = max(least, min(LARGEST[device], _up(work.largest)))
        if train.gradient_release:  # which needs a step in one piece
            least = most = _up(work.largest)
        tokens = (least, max(least, min(COMFORT[device], most)), most)
    else:
        tokens = (train.micro_tokens,) * 3
    if train.checkpointing == "auto":
        return Bounds(*tokens, int(train.offload), layers)  # only what checkpointed layers store is offloaded
    from attune.model.checkpointing import number_of

    wish = number_of(train.checkpointing, layers=layers)
    return Bounds(*tokens, wish, wish)


def choose(bounds: Bounds, fits: Callable[[Choice], bool]) -> Choice:
    """Return the fastest choice that fits; the smallest one where none does.

    Smaller micro-batches cost little until they no longer fill the device; computing layers again costs up to a third
    of the speed. So: no more layers than asked for if a comfortable size fits; else as few as make it fit; and less
    than that size only with all layers.
    """
    comfort = bounds.comfort
    if fits(Choice(comfort, bounds.many)):
        layers = _least(bounds.few, bounds.many, lambda number: fits(Choice(comfort, number)))
        lowest, highest = comfort, bounds.most
    else:
        layers, lowest, highest = bounds.many, bounds.least, comfort
    grains = (highest - lowest) // GRAIN
    fewer = _least(0, grains, lambda number: fits(Choice(highest - number * GRAIN, layers)))
    return Choice(highest - fewer * GRAIN, layers)


def _up(tokens: int) -> int:
    return -(-tokens // GRAIN) * GRAIN


def _least(low: int, high: int, good: Callable[[int], bool]) -> int:
    """Return the smallest number from `low` to `high` that is good, where all above a good one are; else `high`."""
    while low < high:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True, slots=True)
class _Plan:
    """A run, what it is expected to take, and what there is."""

    inputs: Inputs
    work: Work
    expected: Footprint
    bounds: Bounds
    free: int  # bytes

    def memory(self, choice: Choice) -> Memory:
        """Return what a choice is expected to take."""
        return _memory(self.expected, self.work, choice, self.inputs.config)

    def settle(self, tell: Listener, *, measuring: bool) -> tuple[Choice, Measured | None]:
        """Return the choice, and what was measured with it.

        A measurement corrects the estimate, and if that changes the choice, the new one is measured, too.
        """
        ratio = 1.0
        choice = self._choose(ratio)
        best: tuple[Choice, Measured | None] | None = None
        measured: Measured | None = None
        for _ in range(TRIES if measuring else 0):
            expected = self.memory(choice).total
            if expected * ratio > self.free * SURE:
                break
            tell("note", f"measuring {_in_words(choice)}")
            measured = self._measure(choice)
            ratio = (measured.peak or SURE * self.free) / expected  # where it did not fit, by how much is a guess
            again = self._choose(ratio)
            if measured.peak is not None:
                best = (choice, measured)
            if again == choice or (best is not None and not _is_faster(again, best[0])):
                break
            choice = again
        return best or (choice, measured)

    def _choose(self, ratio: float) -> Choice:
        """Return the choice where memory is `ratio` times the estimate."""
        return choose(self.bounds, lambda choice: self.memory(choice).total * ratio <= self.free * SAFE)

    def _measure(self, choice: Choice) -> Measured:
        from attune.train.measure import Trial, measure

        work, config = self.work, self.inputs.config.with_values(_settings(choice))
        worst = work.rows.order[work.rows.fill(choice.micro_tokens)]
        if work.largest > choice.micro_tokens and not config.train.gradient_release:
            worst = np.concatenate([worst, worst])  # two micro-batches: gradients are there at the second
        usual = [work.stream.rows(step) for step in range(1, min(work.steps, USUAL_STEPS) + 1)]
        # the optimizer's state is made at the end of the first step; on cuda, kernels are made for new sizes
        steps = (worst, worst, *(usual if config.device == "cuda" else ()), *usual)
        texts = None if work.texts is None else work.texts.order[_worst_texts(work, choice)]
        trial = Trial(work.corpus, steps, worst=2, timed=len(usual), replay=work.replay, worst_texts=texts)
        return measure(trial, config, self.inputs.base)

    def document(self, choice: Choice, measured: Measured | None) -> dict[str, Any]:
        """Return the JSON document."""
        work, memory = self.work, self.memory(choice)
        peak = measured.peak if measured else None
        fits = memory.total <= self.free * SAFE if measured is None else peak is not None
        speed = measured.tokens_per_s if measured else None
        counts = work.computed(choice.micro_tokens, share=self.expected.shares)
        hours = None if measured is None else self._hours(measured)
        return {
            "fits": fits,
            "memory_gb": {
                "weights": _gb(memory.weights),
                "gradients": _gb(memory.gradients),
                "optimizer": _gb(memory.optimizer),
                "activations": _gb(memory.activations),
                "total": _gb(memory.total),
                "measured": None if peak is None else _gb(peak),
            },
            "error": None if peak is None else round(memory.total / peak - 1, 4),
            "capacity_gb": _gb(self.free),
            "tokens_per_s": None if speed is None else round(speed, 1),
            "steps": work.steps,
            "hours": None if hours is None else float(f"{hours:.4g}"),
            "train_flos": self.expected.flos.of_counts(counts),
            "tokens": work.trained.row_tokens,
            "computed_tokens": counts.computed_tokens,
            "device": self.inputs.config.device,
            "micro_tokens": choice.micro_tokens,
            "checkpointing": choice.checkpointed,
            "layers": self.expected.stored.layers,
            "config": self._chosen(choice),
            "instead": [] if fits else self._relief(),
            "cost": None,
        }

    def _hours(self, measured: Measured) -> float | None:
        """Return how long the steps, the validations and what the guards measure at them will take."""
        if not measured.tokens_per_s or not measured.flos_per_s:
            return None
        from attune.evals.probe_plan import TRAINED_TOKEN, plan_probes

        config, prepared = self.inputs.config, self.inputs.prepared
        steps = self.work.trained.row_tokens / measured.tokens_per_s
        # a validation is a forward pass: a third of the work, or half of it where frozen weights need no gradient
        part = 1 / TRAINED_TOKEN[config.adapter.kind]
        valid = part * self.expected.flos.of_counts(self.work.valid) / measured.flos_per_s
        share = 0.0
        if config.guards.enabled:
            share = plan_probes(config, prepared, context=model_length(self.inputs.base)).cost
        return (steps * (1 + share) + valid) / 3600

    def _chosen(self, choice: Choice) -> dict[str, Any]:
        """Return the settings that the plan chose and the config should say."""
        settings = _settings(choice)
        if self.bounds.least == self.bounds.most and "train.micro_tokens" not in self.inputs.resolved:
            del settings["train.micro_tokens"]
        if self.bounds.few == self.bounds.many:
            del settings["train.checkpointing"]
        return settings

    def _relief(self) -> list[dict[str, Any]]:
        """Return the mildest change that would fit, with what it is expected to take; one at most.

        That is less at once than was asked for, which leaves the result as it is; else the first of RELIEF.
        """
        from attune.train.estimate import footprint

        config = self.inputs.config
        if smaller := self._smaller():
            return [smaller]
        for settings in RELIEF[config.device]:
            if config.train.fp8 and settings.get("adapter.kind") == "qlora":
                continue
            changed = config.with_values(settings)
            if changed == config or (
                config.adapter.kind != "full" and changed.adapter.kind in (config.adapter.kind, "lora")
            ):
                continue
            smallest = Choice(self.bounds.least, self.bounds.many)
            memory = _memory(footprint(self.inputs.base, changed), self.work, smallest, changed)
            if memory.total <= self.free * SAFE:
                return [{"config": dict(settings), "total_gb": _gb(memory.total)}]
        return []

    def _smaller(self) -> dict[str, Any] | None:
        """Return what would fit if all that leaves the result as it is were free to choose, or None."""
        from attune.train.estimate import footprint

        config = self.inputs.config
        free = {"train.micro_tokens": "auto", "train.checkpointing": "auto", "train.gradient_release": False}
        wished = config.with_values(free)
        expected = footprint(self.inputs.base, wished)

        def memory(choice: Choice) -> int:
            return _memory(expected, self.work, choice, config).total

        bounds = bounds_of(wished, self.inputs, self.work, layers=expected.stored.layers)
        choice = choose(bounds, lambda choice: memory(choice) <= self.free * SAFE)
        if memory(choice) > self.free * SAFE:
            return None
        settings = {**_settings(choice), "train.gradient_release": False}
        changed = {key: value for key, value in settings.items() if value != self._present(key)}
        return {"config": changed, "total_gb": _gb(memory(choice))}

    def _present(self, key: str) -> Any:
        return getattr(self.inputs.config.train, key.removeprefix("train."))


def _memory(expected: Footprint, work: Work, choice: Choice, config: Config) -> Memory:
    """Return what a choice takes by an estimate: the worse of rows and, gradients being there then, replayed texts."""
    from attune.model.divergence import KEPT
    from attune.train.estimate import Load

    def load(pile: Pile, places: NDArray[np.int64], **more: Any) -> Load:
        sizes = pile.sizes[places]
        learned = int(pile.learned[places].sum())
        return Load(tokens=int(sizes.sum()), learned=learned, squares=int((sizes * sizes).sum()), **more)

    accumulates = work.largest > choice.micro_tokens
    loads = [load(work.rows, work.rows.fill(choice.micro_tokens), accumulates=accumulates)]
    if work.replay is not None and work.texts is not None:
        kept = KEPT if work.replay.kl else 0
        loads.append(load(work.texts, _worst_texts(work, choice), accumulates=True, kept=kept))
    again, offload = choice.checkpointed, config.train.offload
    memories = [expected.memory(one, checkpointed=again, offload=offload) for one in loads]
    found = max(memories, key=lambda memory: memory.total)
    on_host = work.kept_bytes(expected.head.vocabulary, expected.head.element) if config.device == "cpu" else 0
    return replace(found, total=found.total + on_host)


def _worst_texts(work: Work, choice: Choice) -> NDArray[np.int64]:
    """Return places in `work.texts` of the largest micro-batch of replayed texts: of a step, if it has room for one."""
    assert work.texts is not None and work.replay is not None, "there is replay"  # noqa: PT018
    return work.texts.fill(min(choice.micro_tokens, work.replay.most_tokens))


def _settings(choice: Choice) -> dict[str, Any]:
    return {"train.micro_tokens": choice.micro_tokens, "train.checkpointing": choice.checkpointed or "none"}


def _is_faster(one: Choice, other: Choice) -> bool:
    """Whether a choice is worth another measurement: fewer layers again, or many more tokens at once."""
    return one.checkpointed < other.checkpointed or (
        one.checkpointed == other.checkpointed and one.micro_tokens >= 1.5 * other.micro_tokens
    )


def _in_words(choice: Choice) -> str:
    again = f", {choice.checkpointed} layers computed again" if choice.checkpointed else ""
    return f"{choice.micro_tokens:,} tokens at once{again}"


def _gb(number: float) -> float:
    return round(number / GB, 6)


def _deaf(kind: str, payload: Any) -> None:
    """Hear nothing."""

"""A training in progress: model, optimizer and data position, with validation, saving and restoring."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attune.config import Config
from attune.data.batch import pad_to, saving, step_batches
from attune.data.corpus import Corpus
from attune.data.prepare import Prepared
from attune.errors import ConfigError
from attune.evals.heldout import Measured, measure
from attune.model.adapter import count
from attune.model.attention import PER_ROW, AttentionChoice
from attune.model.checkpointing import dropout_in
from attune.model.folder import full_name
from attune.model.load import attention_choice, load_model
from attune.model.loss import LossOptions
from attune.model.neftune import noise_in
from attune.train import checkpoint as checkpoints
from attune.train.checkpoint import Checkpoint
from attune.train.defaults import stream_of
from attune.train.feed import Replayed, Step
from attune.train.loop import train_steps
from attune.train.metrics import Meter
from attune.train.optim import build_optimizer, learning_rate_at
from attune.train.ready import make_ready
from attune.train.replay import Replay
from attune.train.room import Room, needs_memory
from attune.types import Batch, StepRecord, ValidRecord
from attune.world import World

FP8_ROWS = 16  # 8-bit matrix products sum over a multiple of so many tokens
LEAST_SAVING = 0.005  # the share of tokens from which on sharing is worth a word


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; saved with every checkpoint. A `best_value` of None: not validated yet."""

    step: int = 0
    best_step: int = 0
    best_value: float | None = None
    best_loss: float | None = None  # the validation loss there, which decides between equal values
    stale: int = 0  # validations since the metric was better than ever before
    rate_scale: float = 1.0  # what early_stop.reduce has made of the learning rate
    reductions: int = 0  # how often it did
    flos: float = 0.0
    seconds: float = 0.0


class Session:
    """Model, optimizer and position of one run; all but `progress` and `room` is on the device or fixed."""

    def __init__(self, config: Config, prepared: Prepared, *, base: Path, world: World) -> None:
        self.config = config
        self.corpus = prepared.train
        self.valid_corpus: Corpus | None = prepared.valid
        self.world = world
        self.progress = Progress()
        self.is_ahead = False  # whether the weights are, or soon will be, those of the step after `progress`
        self.replay: Replay | None = None
        self._notes: deque[str] = deque()
        with needs_memory("loading the model"):
            loaded = load_model(
                base,
                device=world.device.type,
                precision=config.precision,
                attention=config.attention,
                trust_remote_code=config.trust_remote_code,
                quantise=config.adapter.kind == "qlora",
            )
            ready = make_ready(loaded, config, base=full_name(config.model))
        self.attention: AttentionChoice = attention_choice(loaded)
        self.model: nn.Module = ready.model
        self.kernels = ready.notes or ("plain layers",)
        self._notes.extend(ready.notes)
        self.shares = shares_prefixes(self.model, config, attention=self.attention.name)
        self.parameters = count(self.model)
        self.vocabulary = int(loaded.config.get_text_config().vocab_size)
        self.optimizer = build_optimizer(self.model, config.train, seed=config.seed)
        if config.train.rounding == "stochastic" and not _trains_16_bits(self.model):
            self._notes.append("train.rounding stochastic changes nothing here: no weight that trains is bfloat16")
        self.stream = stream_of(self.corpus, config)
        self.meter = Meter(ready.flos, device=world.device)
        self.room = Room(
            int(config.train.micro_tokens), tell=self._notes.append, is_fixed=config.train.gradient_release
        )

    def take_replay(self, replay: Replay | None) -> None:
        """Train on general text beside the rows; to be called before the first step."""
        self.replay = replay
        self._notes.extend(() if replay is None else replay.notes)

    def take_notes(self) -> list[str]:
        """Return what is to be told since the last call, in words."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    @property
    def total_steps(self) -> int:
        """Return the step at which the run ends."""
        assert self.config.train.steps != "auto"
        return self.config.train.steps

    def schedule(self) -> Callable[[int], float]:
        """Return the learning rate as a function of the step, as it stands when it is asked."""
        train = self.config.train
        planned = partial(
            learning_rate_at,
            steps=self.total_steps,
            peak=float(train.learning_rate),
            schedule=train.schedule,
            warmup=train.warmup,
        )
        return lambda step: planned(step) * self.progress.rate_scale

    def steps(self) -> Iterator[Step]:
        """Yield the steps still to do; a step's rows are a function of (seed, step) alone."""
        first = self.progress.step + 1
        for number in range(first, self.total_steps + 1):
            rows = self.stream.rows(number)
            micro_tokens = self.room.micro_tokens
            batches = self._lay_out(rows, micro_tokens)
            if number == first and (note := self._sharing_note(number, rows, saving(batches))):
                self._notes.append(note)
            places, relay = partial(self._places, rows), partial(self._lay_out, rows)
            replay = None if self.replay is None else partial(self._replayed, self.replay, number)
            yield Step(number, self.stream.epoch(number), batches, places, relay, micro_tokens, replay=replay)

    def _replayed(self, replay: Replay, step: int, micro_tokens: int) -> Replayed:
        """Return what is replayed beside a step."""
        batches = replay.batches(step, micro_tokens)
        if self.config.train.fp8:
            batches = tuple((pad_to(batch, FP8_ROWS), base) for batch, base in batches)
        return Replayed(batches, replay.weight, replay.kl)

    def places(self, step: int) -> list[str]:
        """Return where the rows of a step stand in their files."""
        return self._places(self.stream.rows(step))

    def first_batches(self) -> tuple[NDArray[np.int64], tuple[Batch, ...]]:
        """Return the rows of the first step and the micro-batches made of them."""
        rows = self.stream.rows(1)
        return rows, self._lay_out(rows, self.room.micro_tokens)

    def _sharing_note(self, step: int, rows: NDArray[np.int64], saved: float) -> str:
        """Say what sharing saves in a step, why it saves nothing though asked for, or what dropout makes it cost."""
        if saved >= LEAST_SAVING:
            return f"shared beginnings save {saved:.0%} of the tokens of step {step}"
        wish = self.config.data.share_prefixes
        if wish is True:
            return f"no beginnings are shared in step {step}: too short, or too few rows fit into train.micro_tokens"
        if wish == "auto" and not self.shares and (drops := dropout_in(self.model)):
            batches = step_batches(self.corpus, rows, self.room.micro_tokens, share=True)
            if (lost := saving(batches)) >= LEAST_SAVING:
                return f"without dropout ({drops}) shared beginnings would save {lost:.0%} of the tokens of step {step}"
        return ""

    def _lay_out(self, rows: NDArray[np.int64], micro_tokens: int) -> tuple[Batch, ...]:
        """Return the micro-batches of a step's rows.

        Raises: ConfigError when there are several, and train.gradient_release needs one.
        """
        batches = step_batches(self.corpus, rows, micro_tokens, share=self.shares)
        if self.config.train.gradient_release and len(batches) > 1:
            tokens = sum(len(batch.tokens) for batch in batches)
            raise ConfigError(
                f"train.gradient_release: a step must be one micro-batch, this one is {len(batches)}.\n"
                f"Set train.micro_tokens to {tokens} or more, make train.batch_rows smaller, or leave it off."
            )
        return tuple(pad_to(batch, FP8_ROWS) for batch in batches) if self.config.train.fp8 else batches

    def _places(self, rows: NDArray[np.int64]) -> list[str]:
        """Return where rows of the corpus stand in their files."""
        return [str(self.corpus.places[int(row)]) for row in rows]

    @property
    def works_beside(self) -> bool:
        """Whether the device computes while the host goes on."""
        return self.world.device.type != "cpu"

    def train(self, *, skips: int = 0, rests: Callable[[int], bool] = lambda _: True) -> Iterator[StepRecord]:
        """Train from the present step to the last, yielding each step's record; `progress` follows.

        `skips`: how many steps in a row may be passed over because their loss or gradient is not finite. `rests`: at
        which steps the weights have to be those of the step when its record is yielded; at others they may be one step
        further, which `is_ahead` says: then there is nothing to save or to measure.
        """
        self.model.train()
        self.meter.restart_clock()

        def runs_ahead(step: int) -> bool:
            self.is_ahead = self.works_beside and step < self.total_steps and not rests(step)
            return self.is_ahead

        records = train_steps(
            self.model,
            self.optimizer,
            self.steps(),
            learning_rate=self.schedule(),
            meter=self.meter,
            world=self.world,
            seed=self.config.seed,
            clip=self.config.train.clip,
            precision=self.config.precision,
            loss=LossOptions.of(self.config.train),
            room=self.room,
            skips=skips,
            runs_ahead=runs_ahead,
        )
        for record in records:
            self.progress = replace(self.progress, step=record.step, flos=record.train_flos)
            yield record
            if not self.is_ahead:
                self.meter.restart_clock()

    def validate(self) -> tuple[ValidRecord, Measured]:
        """Measure the model on the validation rows."""
        assert self.valid_corpus is not None
        with needs_memory("validating"):
            measured = measure(
                self.model,
                self.valid_corpus,
                micro_tokens=self.room.micro_tokens,
                device=self.world.device,
                precision=self.config.precision,
                loss=LossOptions.of(self.config.train),
            )
        record = ValidRecord(
            step=self.progress.step,
            val_loss=measured.loss,
            val_accuracy=measured.accuracy,
            val_perplexity=measured.perplexity,
            val_rows=self.valid_corpus.num_rows,
            val_tokens=measured.tokens,
            val_exact_match=measured.exact_match,
        )
        return record, measured

    def note_best(self, record: ValidRecord, scores: Mapping[str, float]) -> None:
        """Note in `progress` whether a validation, with the `scores` of the answers given at it, is the best so far.

        Of equal values the one with the lower loss is, but that uses up patience like a worse one: the metric got no
        better. The model before training (step 0) never is the best: a run returns a tuned model.
        """
        if record.step == 0:
            return
        metric = str(self.config.early_stop.metric)
        measured = measured_value(metric, record, scores)
        value = measured if metric == "val_loss" else -measured
        best = self.progress
        before = math.inf if best.best_value is None or math.isnan(best.best_value) else best.best_value
        stale = 0 if best.best_step == 0 or value < before else best.stale + 1
        if best.best_step == 0 or (value, record.val_loss) < (before, best.best_loss):
            best = replace(best, best_step=record.step, best_value=value, best_loss=record.val_loss)
        self.progress = replace(best, stale=stale)

    def act_on_patience(self) -> tuple[bool, str]:
        """Act when the last validations brought nothing better; return whether the run is over, and what was done.

        The learning rate is lowered, or it is time to end; nothing happens unless early_stop.patience is set.
        """
        wish = self.config.early_stop
        if not 0 < wish.patience <= self.progress.stale:
            return False, ""
        times = "the last validation" if wish.patience == 1 else f"{wish.patience} validations"
        said = f"no better {wish.metric} in {times}"
        if wish.reduce == 1 or self.progress.reductions >= wish.reductions:
            return True, said
        scale = self.progress.rate_scale * wish.reduce
        self.progress = replace(self.progress, stale=0, rate_scale=scale, reductions=self.progress.reductions + 1)
        return False, f"{said}: the learning rate is now {scale:.3g} of what the schedule says"

    def save(self, folder: Path, *, seconds: float) -> Path:
        """Write a checkpoint of this step into `folder` and delete the ones no longer kept; return its path."""
        self.progress = replace(self.progress, seconds=seconds)
        state = {key: getattr(self.progress, key) for key in Progress.__slots__}
        state["micro_tokens"] = self.room.micro_tokens  # what memory had room for; the bits depend on it
        path = checkpoints.save(folder, self.progress.step, model=self.model, optimizer=self.optimizer, state=state)
        checkpoints.prune(folder, keep=self.config.checkpoint.keep, best_step=self.progress.best_step)
        return path

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where `checkpoint` was written."""
        checkpoints.restore(checkpoint, model=self.model, optimizer=self.optimizer)
        self.progress = Progress(
            **{key: checkpoint.state[key] for key in Progress.__slots__ if key in checkpoint.state}
        )
        self.meter.flos = self.progress.flos
        self.room.micro_tokens = checkpoint.state.get("micro_tokens", self.room.micro_tokens)

    def take_best_weights(self, folder: Path) -> None:
        """Put the weights of the best validated step into the model; without validation, the last step's stay."""
        best = self.progress.best_step
        if best not in (0, self.progress.step):
            checkpoints.restore(checkpoints.open_checkpoint(folder / f"step-{best}"), model=self.model)


def measured_value(metric: str, record: ValidRecord, scores: Mapping[str, float]) -> float:
    """Return the value of what early_stop.metric names: of a validation, or the mean score of the answers at it."""
    return float(getattr(record, metric) if metric.startswith("val_") else scores[metric])


def shares_prefixes(model: nn.Module, config: Config, *, attention: str) -> bool:
    """Return whether beginnings that rows share are computed once: as data.share_prefixes says, auto where it is exact.

    Raises: ConfigError when it is asked for and cannot be exact: rows that share a beginning would share what dropout
    drops in it.
    """
    wish = config.data.share_prefixes
    if wish is False:
        return False
    obstacle = ""
    if attention == PER_ROW:
        obstacle = "this model's attention cannot be plugged in, so its rows are computed one by one"
    elif drops := dropout_in(model):
        obstacle = f"dropout is on ({drops}), and rows that share a beginning would drop the same in it"
    elif noise := noise_in(model):
        obstacle = f"there is noise ({noise}), and rows that share a beginning would have the same in it"
    if obstacle and wish is True:
        raise ConfigError(f"data.share_prefixes: {obstacle}.\nSet it to auto or false, or leave that off.")
    return not obstacle


def _trains_16_bits(model: nn.Module) -> bool:
    return any(weight.requires_grad and weight.dtype == torch.bfloat16 for weight in model.parameters())


def peek_environment(world: World) -> dict[str, Any]:
    """Return what the bits of a result depend on beside the config: versions, device, threads, processor."""
    import peft
    import tokenizers
    import transformers

    return {
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "peft": peft.__version__,
        },
        "hardware": torch.cuda.get_device_name(world.device)
        if world.device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "world_size": world.size,
    }

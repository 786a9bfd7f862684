"""What the guards measure at each validation: the same rows, texts and prompts each time, the base model beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attune.config import Config
from attune.data.corpus import Corpus
from attune.data.prepared import Prepared
from attune.data.reading.schema_file import open_answer_schema
from attune.errors import CheckpointError
from attune.evals.basis import (
    Compared,
    Machine,
    compare,
    has_adapter,
    keep_base,
    keep_states,
    read_base,
    without_adapter,
    write_base,
)
from attune.evals.general import read_general, text_start, write_texts, written_corpus
from attune.evals.heldout import Measured, arithmetic, measure, predicted_tokens
from attune.evals.probe_plan import ProbePlan
from attune.evals.samples import Answered, answer, begun_answers, prepare_asked, sample_lines
from attune.evals.tasks import Schema
from attune.model.divergence import TopK
from attune.model.loss import PLAIN, LossOptions
from attune.record import write_atomic
from attune.types import ProbeRecord
from attune.world import mix_seed

FOLDER, GENERAL, BASE = "guards", "general.jsonl", "base.safetensors"


class Probes:
    """Measures a model in training by a plan. What belongs to the base is kept in RUN/guards, so that a run goes on.

    The model is left as it came: its mode, its gradients and all random states; so training ends in the same bits.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: ProbePlan,
        config: Config,
        prepared: Prepared,
        *,
        run: Path,
        loss: LossOptions = PLAIN,
    ) -> None:
        """`run`: the run's folder; `loss`: which kernel may compute losses.

        Raises: ConfigError for a bad schema, DataError when guards.general cannot be used.
        """
        self.model, self.plan, self.config, self.template = model, plan, config, prepared.template
        self.folder, self.loss = run / FOLDER, loss
        self._train = _take(prepared.train, plan.train_rows)
        self._valid = valid = prepared.valid
        self._task = _Task(_take(valid, plan.task_rows), self.template.stop_ids) if valid and plan.task_rows else None
        schema = open_answer_schema(config.data.answer_schema)
        self._asked = prepare_asked(
            plan.questions,
            self.template,
            openings=plan.openings,
            max_new_tokens=plan.max_new_tokens,
            schema=None if schema is None else Schema(schema, config.data.answer_schema),
        )
        self._general: Corpus | None = None
        has_file = config.guards.general and not (self.folder / GENERAL).is_file()
        self._given = self._read_given() if has_file else None  # before anything is written: it may hold nothing of use
        self._base: Mapping[str, TopK | Tensor | None] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that suit the references of the prompts; none without prompts."""
        return self._asked.metrics if self._asked.questions else ()

    def prepare(self, step: int, *, micro_tokens: int) -> None:
        """Take up what is kept of the base model; at step 0, where the model is still the base, make what is missing.

        Raises: CheckpointError when it is missing later, and only the base could make it; DataError when
        guards.general holds nothing of use.
        """
        if self._general is not None:
            return
        machine = self._machine(micro_tokens)
        is_base = step == 0 or has_adapter(self.model)
        with self._undisturbed(), without_adapter(self.model):
            general = self._open_general(is_base=is_base, machine=machine)
            self._base = self._open_base(general, is_base=is_base, machine=machine)
        self._general = general

    def measure(
        self, step: int, *, micro_tokens: int, validated: Measured | None = None
    ) -> tuple[ProbeRecord, list[dict[str, Any]]]:
        """Return what is found after `step` steps, 0 for the model before training, and the lines of samples.jsonl.

        `validated`: what the same model has just shown on all validation rows, which spares a part of the answers.
        Raises: as `prepare`, which it does where that was not done.
        """
        started = time.monotonic()
        self.prepare(step, micro_tokens=micro_tokens)
        machine = self._machine(micro_tokens)
        with self._undisturbed():
            seen = measure(
                self.model,
                self._train,
                micro_tokens=micro_tokens,
                device=machine.device,
                precision=machine.precision,
                loss=self.loss,
            )
            found: dict[str, Any] = {**self._measure_general(machine), **self._measure_task(machine)}
            answered = self._answer(machine, validated)
        record = ProbeRecord(step=step, probe_loss=seen.loss, probe_accuracy=seen.accuracy, **found)
        if answered is None:
            return replace(record, seconds=_since(started)), []
        record = replace(record, **_of_answers(answered, self.template.tokenizer.decode), seconds=_since(started))
        return record, list(sample_lines(step, self._asked, answered))

    def _machine(self, micro_tokens: int) -> Machine:
        return Machine(next(self.model.parameters()).device, self.config.precision, micro_tokens)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Put the model into evaluation, and afterwards it and the random states where they were."""
        was_training = self.model.training
        device = next(self.model.parameters()).device
        compiled = any(part._compiled_call_impl is not None for part in self.model.modules())  # noqa: SLF001 - no other name
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            self.model.eval()
            if compiled:  # lengths, caches and the adapter change all the time: compiling for them would cost minutes
                torch.compiler.set_stance("force_eager")
            try:
                yield
            finally:
                if compiled:
                    torch.compiler.set_stance("default")
                self.model.train(was_training)

    def _open_general(self, *, is_base: bool, machine: Machine) -> Corpus:
        """Return the general texts, kept or made now: of the user's file, or written by the base."""
        path = self.folder / GENERAL
        if not path.is_file():
            if not is_base and not self.config.guards.general:
                raise CheckpointError(
                    f"{path} is gone: it holds what the base model wrote, and only a new run can make it.\n"
                    "Restore it, or start a new run."
                )
            corpus = self._make_general(machine)
            lines = [
                orjson.dumps({"tokens": tokens, "text": self.template.tokenizer.decode(tokens)})
                for tokens in (corpus.row(row)[0].tolist() for row in range(corpus.num_rows))
            ]
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, b"".join(line + b"\n" for line in lines))
        # a killed run that had not kept the base yet reads the same texts again
        texts = [orjson.loads(line)["tokens"] for line in path.read_bytes().splitlines()]
        return written_corpus(texts, name=self.config.guards.general or GENERAL)

    def _read_given(self) -> Corpus:
        """Return the general texts of the user's file."""
        config, plan = self.config, self.plan
        return read_general(
            config.guards.general,
            config.data,
            self.template,
            rows=plan.general_rows,
            max_tokens=plan.general_tokens,
            setting="guards.general",
        )

    def _make_general(self, machine: Machine) -> Corpus:
        if self.config.guards.general:
            return self._given or self._read_given()
        config, plan = self.config, self.plan
        tokenizer = self.template.tokenizer
        with arithmetic(machine.precision, machine.device):
            texts = write_texts(
                self.model,
                [text_start(tokenizer)] * plan.general_rows,
                tokenizer.stop_ids,
                max_tokens=plan.general_tokens,
                seed=mix_seed("general", config.seed),
            )
        return written_corpus(texts)

    def _open_base(self, general: Corpus, *, is_base: bool, machine: Machine) -> Mapping[str, TopK | Tensor | None]:
        """Return the base's predictions, kept or made now; of an adapted model its hidden states, made each time."""
        corpora = {"general": general} if general.num_rows else {}
        if self._task is not None:
            corpora["task"] = self._task.corpus
        if has_adapter(self.model):
            return {name: keep_states(self.model, corpus, machine) for name, corpus in corpora.items()}
        path = self.folder / BASE
        if is_base and not path.is_file():
            write_base(
                path, {name: keep_base(self.model, corpus, machine) for name, corpus in corpora.items()}, corpora
            )
        return read_base(path, corpora)

    def _compare(self, name: str, corpus: Corpus, machine: Machine) -> Compared:
        return compare(self.model, corpus, self._base[name], machine=machine, stop_ids=self.template.stop_ids)

    def _measure_general(self, machine: Machine) -> dict[str, float]:
        assert self._general is not None, "prepared above"
        if not self._general.num_rows:
            return {}
        found = self._compare("general", self._general, machine)
        return {"general_loss": float(found.nll.mean()), "kl_general": max(float(found.kl.mean()), 0.0)}

    def _measure_task(self, machine: Machine) -> dict[str, float]:
        if self._task is None:
            return {}
        return self._task.figures(self._compare("task", self._task.corpus, machine))

    def _answer(self, machine: Machine, validated: Measured | None) -> Answered | None:
        asked = self._asked
        if not asked.questions:
            return None
        begun: Sequence[Sequence[int]] = ()
        if validated is not None and self._valid is not None:
            begun = begun_answers(asked.questions, self._valid, validated.token_right)
        with arithmetic(machine.precision, machine.device):
            return answer(self.model, asked, self.template, micro_tokens=machine.micro_tokens, begun=begun)


class _Task:
    """Validation rows with the ends of their answers, be they learned or not: where a model should stop."""

    def __init__(self, corpus: Corpus, stop_ids: Sequence[int]) -> None:
        is_stop = np.isin(corpus.tokens, stop_ids)
        after_learned = np.append(False, (corpus.learned & ~is_stop)[:-1])
        after_learned[corpus.offsets[:-1][corpus.lengths > 0]] = False
        ends = is_stop & (corpus.learned | after_learned)
        self.corpus = replace(corpus, learned=corpus.learned | ends)
        places = predicted_tokens(self.corpus)
        self._ends: NDArray[np.bool_] = ends[places]
        self._is_learned: NDArray[np.bool_] = corpus.learned[places]

    def figures(self, found: Compared) -> dict[str, float]:
        """Return the divergence on answers, and how the model stops; what there is no place for is left out."""
        inside = self._is_learned & ~self._ends
        figures = {"kl_task": max(float(found.kl[self._is_learned].mean()), 0.0)}  # rounding may take it below
        if self._ends.any():
            figures["stop_recall"] = float(found.stops_first[self._ends].mean())
        if inside.any():
            figures["stop_leak"] = float(found.stop_share[inside].mean())
        return figures


def _take(corpus: Corpus, rows: Sequence[int]) -> Corpus:
    chosen = np.zeros(corpus.num_rows, dtype=bool)
    chosen[list(rows)] = True
    return corpus.keep(chosen)


def _of_answers(answered: Answered, decode: Any) -> dict[str, Any]:
    """Return the fields of a ProbeRecord that come from answers."""
    own, reference = answered.wording, answered.reference
    return {
        "answers": len(answered.texts),
        "finish_rate": answered.finish_rate,
        "answer_tokens": own.tokens,
        "reference_tokens": reference.tokens,
        "openings": answered.openings,
        "opener": decode(answered.opening[0]),
        "opener_share": answered.opening[1],
        "reference_opener_share": answered.reference_opening[1],
        "distinct_2": own.distinct_2,
        "reference_distinct_2": reference.distinct_2,
        "compression": own.compression,
        "reference_compression": reference.compression,
        "scores": answered.scores,
    }


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)

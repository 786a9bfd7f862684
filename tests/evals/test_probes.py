"""Probes: sizes by cost, figures of real models of every kind, the same after a resume, and a model left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attune.bundled import starter_folder
from attune.config import Config
from attune.data.prepared import Prepared
from attune.errors import CheckpointError
from attune.evals import samples
from attune.evals.heldout import measure
from attune.evals.probe_plan import OPENINGS, ProbePlan, plan_probes
from attune.evals.probes import Probes
from attune.model.adapter import trainable_weights
from attune.model.generate import generate
from attune.train.run import gather
from attune.train.session import Session
from attune.types import ProbeRecord
from attune.world import open_world
from tests.tiny import write_model_folder, write_rows

MICRO = 512
KINDS = ("full", "lora", "qlora")
Open = Callable[..., tuple[Session, Prepared]]


@pytest.fixture(scope="module")
def open_session(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Return a maker of sessions on small rows, as a run opens them."""
    folder = tmp_path_factory.mktemp("probes")
    write_model_folder(folder / "model", dropout=0.1)
    write_rows(folder / "rows.jsonl", 60)
    (folder / "book.txt").write_text("\n\n".join(f"Paragraph {n} of a book." for n in range(40)))

    def make(**settings: Any) -> tuple[Session, Prepared]:
        config = Config(model=str(folder / "model"), out=str(folder / "run"), device="cpu").with_values(
            {
                "data.train": str(folder / "rows.jsonl"),
                "data.valid_share": 0.3,
                "data.cache": "off",
                "train.steps": 6,
                "train.batch_rows": 8,
                "train.learning_rate": 0.01,
                "guards.rows": 6,
                "guards.prompts": 5,
                "guards.max_new_tokens": 6,
                "guards.general": str(folder / "book.txt"),
                **settings,
            }
        )
        inputs = gather(config, lambda *_: None)
        session = Session(inputs.config, inputs.prepared, base=inputs.base, world=open_world(str(inputs.config.device)))
        return session, inputs.prepared

    return make


def open_probes(session: Session, prepared: Prepared, run: Path) -> Probes:
    """Return the probes of a session by its own plan."""
    plan = plan_probes(session.config, prepared, context=256)
    return Probes(session.model, plan, session.config, prepared, run=run)


def figures(record: ProbeRecord) -> dict[str, Any]:
    """Return all that was measured but the time."""
    return {**asdict(record), "seconds": None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_measured_beside_its_base(open_session: Open, kind: str, tmp_path: Path) -> None:
    """At step 0 nothing diverges; after some steps it does; a resumed run goes on with the same texts and base."""
    session, prepared = open_session(**{"adapter.kind": kind, "guards.general": ""})
    probes = open_probes(session, prepared, tmp_path)
    before, lines = probes.measure(0, micro_tokens=MICRO)
    assert before.kl_general == pytest.approx(0, abs=1e-6)
    assert before.kl_task == pytest.approx(0, abs=1e-6)
    assert before.answers == len(lines) == 5
    assert before.openings == len(probes.plan.openings) > before.answers
    assert before.opener_share in [count / before.openings for count in range(1, before.openings + 1)]
    assert {line["system"] for line in lines} == {"base"}
    assert (tmp_path / "guards" / "base.safetensors").exists() == (kind == "full")
    train = probes._train
    assert before.probe_loss == measure(session.model, train, micro_tokens=MICRO).loss
    list(session.train())
    after, lines = probes.measure(6, micro_tokens=MICRO)
    assert after.kl_general is not None and after.kl_general > 1e-3
    assert after.kl_task is not None and after.kl_task > 1e-2
    assert after.probe_loss < before.probe_loss
    assert {line["system"] for line in lines} == {"tuned"}
    assert set(after.scores) >= {"exact_match", "stop_rate"}
    for room in (MICRO, 128):
        again, others = open_probes(session, prepared, tmp_path).measure(6, micro_tokens=room)
        assert others == lines
        for name, value in figures(again).items():
            if room != MICRO and name in {"opener", "opener_share"}:
                continue  # what is drawn depends on the rows that are drawn together
            expected = figures(after)[name]
            assert value == (pytest.approx(expected, rel=1e-4) if isinstance(value, float) else expected), name


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_what_validation_has_shown_is_not_generated(
    open_session: Open, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, scores and lines are the same, and a part of each answer was known before."""
    rows = [{"prompt": f"{n} which?", "completion": f"it is {['red', 'blue'][n % 2]}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wishes = {"train.steps": 40, "guards.max_new_tokens": 16, "adapter.kind": kind}
    session, prepared = open_session(**{**wishes, "data.train": str(tmp_path / "rows.jsonl")})
    probes = open_probes(session, prepared, tmp_path)
    probes.prepare(0, micro_tokens=MICRO)
    list(session.train())
    _, validated = session.validate()
    seen: list[Sequence[Sequence[int]]] = []

    def spy(*given: Any, begun: Sequence[Sequence[int]] = (), **options: Any) -> Any:
        seen.append(begun)
        return generate(*given, begun=begun, **options)

    monkeypatch.setattr(samples, "generate", spy)
    plain, plain_lines = probes.measure(40, micro_tokens=MICRO)
    spared, spared_lines = probes.measure(40, micro_tokens=MICRO, validated=validated)
    assert figures(spared) == figures(plain)
    assert spared_lines == plain_lines
    begun = seen[2]
    assert seen[0] == ()
    assert sum(map(len, begun)) > len(begun), "some tokens of most answers"
    decode = prepared.template.tokenizer.decode
    for tokens, line in zip(begun, plain_lines, strict=True):
        words = [token for token in tokens if token not in prepared.template.stop_ids]
        assert line["answer"].startswith(decode(words))
        assert not line["finished"] or line["answer"] != line["reference"] or len(words) < len(tokens)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_ends_in_the_same_bits_with_and_without(open_session: Open, kind: str, tmp_path: Path) -> None:
    """Measuring between steps leaves weights, mode, gradients and random states as they were, dropout included."""
    ends = []
    for measures in (False, True):
        session, prepared = open_session(**{"adapter.kind": kind, "adapter.dropout": 0.1})
        probes = open_probes(session, prepared, tmp_path)
        steps = session.train()
        for step in range(6):
            if measures and step % 2 == 0:
                random, was_training = torch.get_rng_state(), session.model.training
                probes.measure(step, micro_tokens=MICRO)
                assert torch.equal(torch.get_rng_state(), random)
                assert session.model.training == was_training
                assert torch.is_grad_enabled()
            next(steps)
        ends.append({name: part.clone() for name, part in trainable_weights(session.model).items()})
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_ends_of_answers_are_looked_at_even_where_they_are_not_learned(open_session: Open, tmp_path: Path) -> None:
    """A mask that hides the end token hides nothing from the guard: recall and leak are counted by hand."""
    session, prepared = open_session()
    valid = prepared.valid
    assert valid is not None
    found = []
    for hides in (False, True):
        if hides:
            valid.learned[valid.tokens == 1] = False
        probes = open_probes(session, prepared, tmp_path / str(hides))
        found.append(probes.measure(0, micro_tokens=MICRO)[0])
    assert found[0].stop_recall == found[1].stop_recall
    assert found[0].stop_leak == pytest.approx(found[1].stop_leak)
    plan = plan_probes(session.config, prepared, context=256)
    recall, leak = [], []
    session.model.set_attn_implementation("eager")  # type: ignore[operator]
    session.model.eval()
    for row in plan.task_rows:
        tokens, learned = valid.row(row)
        with torch.no_grad():
            logits = session.model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0]
        stop = torch.softmax(logits, -1)[:, 1]
        recall.append(float(logits[-2].argmax() == 1))
        leak += stop[np.flatnonzero(learned) - 1].tolist()
    assert found[0].stop_recall == pytest.approx(np.mean(recall))
    assert found[0].stop_leak == pytest.approx(np.mean(leak), rel=1e-4)


def test_what_only_the_base_can_make_is_missed_in_words(open_session: Open, tmp_path: Path) -> None:
    """Later in a run the base of a fully trained model is gone; an adapter still has it, to the same texts."""
    session, prepared = open_session(**{"guards.general": ""})
    with pytest.raises(CheckpointError, match="only a new run can make it"):
        open_probes(session, prepared, tmp_path / "gone").measure(3, micro_tokens=MICRO)
    open_probes(session, prepared, tmp_path / "kept").prepare(0, micro_tokens=MICRO)
    (tmp_path / "kept" / "guards" / "base.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"base\.safetensors cannot be read"):
        open_probes(session, prepared, tmp_path / "kept").prepare(3, micro_tokens=MICRO)
    adapted, prepared = open_session(**{"adapter.kind": "lora", "guards.general": ""})
    open_probes(adapted, prepared, tmp_path / "early").prepare(0, micro_tokens=MICRO)
    list(adapted.train())
    open_probes(adapted, prepared, tmp_path / "late").prepare(6, micro_tokens=MICRO)
    early, late = ((tmp_path / name / "guards" / "general.jsonl").read_text() for name in ("early", "late"))
    assert early == late


def test_a_file_of_general_text_is_used_and_kept(open_session: Open, tmp_path: Path) -> None:
    """The pieces measured at the start are those measured at the end, whatever becomes of the file."""
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"Paragraph {n} of a book." for n in range(40)))
    session, prepared = open_session(**{"guards.general": str(book)})
    first, _ = open_probes(session, prepared, tmp_path).measure(0, micro_tokens=MICRO)
    kept = [json.loads(line)["text"] for line in (tmp_path / "guards" / "general.jsonl").read_text().splitlines()]
    assert len(kept) == 6
    assert all(text.startswith("Paragraph") for text in kept)
    book.write_text("Other text, after the run was started.")
    again, _ = open_probes(session, prepared, tmp_path).measure(1, micro_tokens=MICRO)
    assert again.general_loss == first.general_loss


def test_without_validation_rows_or_prompts_the_rest_is_measured(open_session: Open, tmp_path: Path) -> None:
    """No validation rows: no answers and no figures of them; guards.prompts 0: no answers alone."""
    session, prepared = open_session(**{"data.valid_share": 0.0})
    record, lines = open_probes(session, prepared, tmp_path / "none").measure(0, micro_tokens=MICRO)
    assert lines == []
    assert {record.kl_task, record.stop_recall, record.opener, record.finish_rate} == {None}
    assert record.general_loss is not None
    assert (record.answers, record.openings) == (0, 0)
    session, prepared = open_session(**{"guards.prompts": 0})
    record, lines = open_probes(session, prepared, tmp_path / "mute").measure(0, micro_tokens=MICRO)
    assert lines == []
    assert (record.answers, record.openings, record.opener_share) == (0, 0, None)
    assert record.stop_recall is not None
    text = tmp_path / "text.jsonl"
    words = ["".join(chr(97 + (7 * n + 5 * k * k) % 26) for k in range(30)) for n in range(26)]
    text.write_text("".join(json.dumps({"text": word}) + "\n" for word in words))
    session, prepared = open_session(**{"data.train": str(text)})
    record, lines = open_probes(session, prepared, tmp_path / "text").measure(0, micro_tokens=MICRO)
    assert lines == []
    assert record.kl_task is not None


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "settings",
    [
        {"adapter.kind": "full"},
        {"adapter.kind": "full", "train.kernels": "plain", "train.compile": True},
        {"adapter.kind": "lora"},
        {"adapter.kind": "qlora"},
        {"adapter.kind": "lora", "train.fp8": True},
    ],
)
def test_on_a_gpu(open_session: Open, settings: dict[str, Any], tmp_path: Path) -> None:
    """Fused, compiled, 4-bit and 8-bit layers are measured beside their base, and train on as without."""
    losses = []
    for measures in (False, True):
        session, prepared = open_session(device="cuda", model=str(starter_folder()), **settings)
        probes = open_probes(session, prepared, tmp_path)
        if measures:
            before, _ = probes.measure(0, micro_tokens=4096)
            assert before.kl_general == pytest.approx(0, abs=1e-4)
        steps = session.train()
        for step in range(1, 7):
            next(steps)
            if measures:
                after, lines = probes.measure(step, micro_tokens=4096)
        losses.append(session.validate()[0].val_loss)
    assert after.kl_task is not None and after.kl_task > 1e-2
    assert len(lines) == 5
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def planned(session: Session, prepared: Prepared, **settings: Any) -> ProbePlan:
    """Return the plan under some settings."""
    return plan_probes(session.config.with_values(settings), prepared, context=256)


def test_sizes_follow_the_share_of_compute(open_session: Open) -> None:
    """Between 16 validation rows, 8 others and 8 prompts and 256, 128 and 64 the cost decides; wishes stand."""
    autos = {"guards.rows": "auto", "guards.prompts": "auto", "guards.max_new_tokens": "auto"}
    session, prepared = open_session(**{"data.valid_share": 0.5})
    least = planned(session, prepared, **autos, **{"guards.cost": 0.0})
    assert (len(least.train_rows), len(least.task_rows), least.general_rows, len(least.questions)) == (8, 16, 8, 8)
    assert "more than guards.cost 0" in least.reason
    assert least.reason.startswith("16 validation and 8 training rows, 8 general texts and 8 answers")
    most = planned(session, prepared, **autos, **{"guards.cost": 1.0, "valid.every": 100_000, "train.steps": 10**6})
    assert most.general_rows == 128
    assert len(most.train_rows) == prepared.train.num_rows, "a small set has no more"
    steps = {"train.steps": 10_000}
    plans = [planned(session, prepared, **autos, **steps, **{"valid.every": every}) for every in (50, 100, 300, 1000)]
    sizes = [plan.general_rows for plan in plans]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert all(plan.cost <= 0.05 or plan.general_rows == 8 for plan in plans)
    assert planned(session, prepared, **autos, **steps, **{"valid.every": 300}) == plans[2]
    wish = planned(session, prepared, **{"guards.rows": 3, "guards.prompts": 2, "guards.max_new_tokens": 7})
    assert (len(wish.train_rows), len(wish.questions), wish.max_new_tokens) == (3, 2, 7)


def test_no_more_rows_are_counted_than_there_are(open_session: Open) -> None:
    """What a plan says and what it costs is of the rows that there are, not of those that were wished for."""
    session, prepared = open_session(**{"data.valid_share": 0.0})
    assert prepared.valid is None
    plan = planned(session, prepared, **{"guards.rows": 16})
    assert plan.reason.startswith("0 validation and 16 training rows, 16 general texts and 0 answers")
    every = prepared.train.num_rows
    wishes = [planned(session, prepared, **{"guards.rows": rows}) for rows in (every, 2 * every)]
    general = (wishes[1].general_rows - wishes[0].general_rows) * wishes[0].general_tokens
    between = int(session.config.valid.every) * 8 * float(prepared.train.lengths.mean())
    assert wishes[1].cost - wishes[0].cost == pytest.approx(general / (3 * between))


def test_openings_are_as_many_however_few_are_answered(open_session: Open) -> None:
    """Of some 30 validation rows 24 are begun, be 2 or 8 or all of them answered to the end; without answers none."""
    session, prepared = open_session(**{"data.valid_share": 0.5})
    assert prepared.valid is not None and prepared.valid.num_rows > OPENINGS
    every = prepared.valid.num_rows
    plans = {count: planned(session, prepared, **{"guards.prompts": count}) for count in (2, 8, every, 0)}
    assert [len(plan.questions) for plan in plans.values()] == list(plans)
    assert [len(plan.openings) for plan in plans.values()] == [OPENINGS, OPENINGS, OPENINGS, 0]
    assert len({question.place.line for question in plans[2].openings}) == OPENINGS
    assert {q.place.line for q in plans[every].openings} < {q.place.line for q in plans[every].questions}

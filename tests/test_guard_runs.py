"""The calibration of the guards: rows are what they are said to be, damage is measured and judged as it is told."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attune.config import Config
from attune.evals.guards.catalog import GUARDS
from benchmarks.forgetting import common_level, reach, verdict
from benchmarks.gpu_table import write_into
from benchmarks.guard_cases import CASES, CLEAN, SICK, Draw
from benchmarks.guard_faults import forget_ends, poison_embeddings, with_prompts
from benchmarks.guard_forget import paragraphs, split_text
from benchmarks.guard_rows import draw_tickets, is_noise, label, letter, open_alike, plant_noise, ticket
from benchmarks.guard_runs import above_lowest, damage_of, half_of
from benchmarks.guard_table import broken, judge, promises
from tests.tiny import flat_batch, make_corpus, make_model, make_rows


def result(case: str, alarms: list[tuple[str, str, int]], curve: list[tuple[float, float]]) -> dict[str, Any]:
    """Return what a run came to, as its process says it."""
    said = [{"name": name, "severity": severity, "step": step} for name, severity, step in alarms]
    return {"case": case, "seed": 0, "ended": "done", "alarms": said, "curve": curve, "culprits": 0, "named": 0}


@pytest.mark.parametrize("case", [case for case in CASES.values() if not case.needs_text], ids=lambda case: case.name)
def test_rows_are_a_function_of_the_seed(case: Any) -> None:
    """A case with a seed has the same rows each time, others with another seed, and settings that exist."""
    one, again, other = (case.rows(Draw(random.Random(seed))) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert not {row["prompt"] for row in one.train} & {row["prompt"] for row in one.valid}
    Config().with_values(dict(case.settings))


def test_every_guard_has_a_sick_run() -> None:
    """What a run must raise is the name of a guard, and every guard from G1 to G12 has a run."""
    promised = {name for case in SICK for names in promises(case) for name in names}
    assert promised <= set(GUARDS)
    assert {guard.id for guard in GUARDS.values()} == {GUARDS[name].id for name in promised}
    assert all(case.is_clean for case in CLEAN)


def test_spoiled_rows_are_spoiled_as_said() -> None:
    """Nine in ten answers begin with "Sure!"; so many rows are noise as were planted, and sound rows are none."""
    rows = draw_tickets(random.Random(0), "train", 100, letter)
    said = open_alike(random.Random(0), rows)
    assert sum(row["completion"].startswith("Sure! ") for row in said) == 90
    noisy = plant_noise(random.Random(0), rows, 7)
    assert sum(map(is_noise, noisy)) == 7
    assert not any(map(is_noise, rows))


def test_a_letter_is_a_message_in_two_parts_and_a_label_one_word() -> None:
    """Tasks made of a ticket keep its text."""
    row = {"prompt": "It is late. I want a refund. Order 5.", "completion": '{"issue":"late"}'}
    made = letter(row)
    assert made is not None
    assert made["prompt"].endswith("It is late.")
    assert made["completion"] == "I want a refund. Order 5."
    assert letter({"prompt": "One. Two.", "completion": "{}"}) is None
    assert label(row)["completion"] == "late"
    assert ticket(row) is row


def test_damage_begins_after_the_best_validation() -> None:
    """Loss above its lowest counts only after the lowest, however high it was before."""
    curve = above_lowest([(0, 7.0), (10, 4.0), (20, 4.5), (30, 6.0)])
    assert curve == [(0, 0.0), (10, 0.0), (20, 0.5), (30, 2.0)]
    assert half_of(curve) == pytest.approx(20 + 10 * 0.5 / 1.5)
    assert half_of([(0, 0.0), (10, 0.0)]) is None


def test_damage_is_read_from_what_was_measured() -> None:
    """Forgetting counts from the base model's own loss, "Sure!" by the answers, noise by the steps that hold it."""
    metrics = [{"step": 0, "general_loss": 4.0}, {"step": 4, "general_loss": 3.9}, {"step": 8, "general_loss": 5.0}]
    assert damage_of(CASES["forgets"], metrics, [], steps=8) == [(0, 0.0), (4, 0.0), (8, 1.0)]
    samples = [{"step": 4, "answer": " Sure! Yes."}, {"step": 4, "answer": "No."}, {"step": 0, "answer": "Sure."}]
    assert damage_of(CASES["sure"], [], samples, steps=8) == [(0, 0.0), (4, 1.0)]
    right = [{"step": step, "loss": 1.0, "accuracy": float(step > 4)} for step in range(1, 21)]
    idle = damage_of(CASES["memorised"], right, [], steps=20)
    assert idle[9:12] == [(9, 0.0), (10, 0.5), (11, 1.5)]
    assert damage_of(CASES["noisy-rows"], [], [], steps=9, noisy=[3, 7]) == [(0, 0.0), (3, 1.0), (7, 2.0)]
    assert half_of(damage_of(CASES["not-finite"], [], [], steps=32)) == 28


@pytest.mark.parametrize(("step", "in_time"), [(15, True), (16, False)])
def test_an_alarm_is_in_time_before_half_the_damage(step: int, in_time: bool) -> None:
    """The first alarm of the right name counts, and only up to the step where half is lost."""
    curve = [(0.0, 0.0), (10.0, 0.0), (20.0, 1.0)]
    found = judge(
        CASES["overfit"],
        ("overfit",),
        result("overfit", [("spike", "warning", 1), ("overfit", "warning", step), ("overfit", "error", 20)], curve),
    )
    assert found.is_sick
    assert found.first == step
    assert found.in_time is in_time
    assert found.severities == ("error", "warning")


def test_broken_promises_are_named() -> None:
    """A sick run without its alarm, a clean run with an error and a run that failed are each said; a warning is not."""
    curve = [(0.0, 0.0), (10.0, 1.0)]
    report = {
        "runs": {
            "forgets 0": result("forgets", [], curve),
            "tickets 0": result("tickets", [("forgetting", "error", 8)], []),
            "labels 0": result("labels", [("forgetting", "warning", 8)], []),
            "cut 0": {"failed": "took longer than 9 s"},
        }
    }
    found = broken(report)
    assert [line.split(":")[0] for line in found] == ["forgets", "tickets 0", "cut 0"]
    report["runs"]["forgets 0"] = result("forgets", [("forgetting", "warning", 3)], curve)
    assert len(broken(report)) == 2


def test_end_tokens_are_forgotten_and_nothing_else() -> None:
    """Of every answer the last token is not learned any more."""
    corpus = make_corpus([9, 4, 12])
    without = forget_ends(corpus)
    ends = corpus.offsets[1:] - 1
    expected = np.array(corpus.learned)
    expected[ends] = False
    assert np.array_equal(without.learned, expected)
    assert corpus.learned[ends].all()


def test_questions_are_learned_beside_answers() -> None:
    """Every position but the last of each row predicts the token after it, and never that of the next row."""
    rows = make_rows([8, 5])
    batch = with_prompts(flat_batch(rows))
    tokens = torch.cat([tokens for tokens, _ in rows])
    wanted = torch.roll(tokens, -1)
    inside = torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11])
    assert torch.equal(batch.targets[inside], wanted[inside])
    assert batch.targets[7] == batch.targets[12] == -100


def test_embeddings_are_poisoned_from_a_step_on_and_only_in_training() -> None:
    """The second training pass is NaN, the first and every evaluation are not; afterwards nothing is."""
    model = make_model(attention="eager")
    tokens = torch.tensor([[3, 4, 5]])
    with poison_embeddings(2):
        model.train()
        assert torch.isfinite(model(tokens).logits).all()
        with torch.no_grad():
            assert torch.isfinite(model(tokens).logits).all()
        assert torch.isnan(model(tokens).logits).all()
        assert torch.isfinite(model.eval()(tokens).logits).all()
    assert torch.isfinite(model.train()(tokens).logits).all()


def test_ways_are_compared_where_they_reach_the_same_score() -> None:
    """Between two validations a straight line; a run that never gets there is none."""
    points = [
        {"step": 0, "score": 0.0, "general": 3.0, "kl": 0.0},
        {"step": 10, "score": 0.2, "general": 3.5, "kl": 0.4},
        {"step": 20, "score": 0.6, "general": 4.5, "kl": 0.8},
    ]
    found = reach(points, 0.4)
    assert found is not None
    assert (found.step, found.rise, found.kl) == pytest.approx((15, 1.0, 0.6))
    assert reach(points, 0.7) is None
    assert common_level([{"points": points}, {"points": points[:2]}]) == 0.2
    gentle = reach([{**point, "general": 3.0 + 0.4 * (point["general"] - 3.0)} for point in points], 0.4)
    assert "by 60% at equal task score (1 seeds, 60% to 60%): at least half" in verdict(
        {("plain", 0): found, ("self", 0): gentle}
    )


def test_measured_and_replayed_text_share_nothing(tmp_path: Path) -> None:
    """Each half of a text is its own, without short lines and without the article that the model knows."""
    long = [f"Paragraph {number} " + "word " * 60 for number in range(6)]
    lines = [" = One = ", *long[:2], "short", " = = Part = = ", long[2], " = Nero = ", long[3], " = Two = ", *long[4:]]
    file = tmp_path / "text.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    kept = [text.strip() for number, text in enumerate(long) if number != 3]
    assert list(paragraphs(file)) == kept
    measured, replayed = (path.read_text().splitlines() for path in split_text(file, tmp_path))
    assert len(measured) == 2
    assert len(replayed) == 3
    assert not set(measured) & set(replayed)


def test_two_programs_write_into_one_page(tmp_path: Path) -> None:
    """Each replaces what stands between its own marks, and the words around them stay."""
    page = tmp_path / "page.md"
    write_into(page, "one", ("# Page", ""), program="a.py")
    page.write_text(page.read_text() + "\nWords.\n", encoding="utf-8")
    write_into(page, "two", ("# Page", ""), program="b.py")
    write_into(page, "three", ("# Page", ""), program="a.py")
    text = page.read_text()
    assert "one" not in text
    assert text.index("three") < text.index("Words.") < text.index("two")

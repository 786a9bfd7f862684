"""What the guards recorded, as the report shows it: alarms, marks, charts, losses by part and token, answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attune.record import RunFolder
from attune.show.alarms import pressing_alarms, repeated_rows, sorted_alarms, spikes
from attune.show.breakdown import break_down
from attune.show.charts import Chart
from attune.show.extremes import heated_rows
from attune.show.facts import Facts, read_facts
from attune.show.followed import MAX_TIMES, followed_prompts
from attune.show.guard_charts import answer_charts, forgetting_charts, memorising_charts
from attune.show.marks import divergence_zone
from attune.show.words import alarm_name
from tests.show.run_folder import STEPS, write_run
from tests.show.watched import SPIKES


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A complete run of invented figures."""
    return read_facts(write_run(tmp_path_factory.mktemp("runs")))


def curve(chart: Chart, name: str) -> dict[str, Any]:
    """Return the trace of a chart with that name."""
    return next(trace for trace in chart.plot["data"] if trace["name"] == name)


def rising(folder: Path, *, rows: int, shift: float, train: float = 1.0) -> Facts:
    """Return a run of three validations after the lowest, whose rows are worse by `shift` and a little noise."""
    run = RunFolder.create(folder / "rising")
    for step, loss in ((0, 3.0), (10, 1.0), (20, 1.0 + shift), (30, 1.0 + shift)):
        run.append("metrics.jsonl", {"step": step, "val_loss": loss})
        run.append("metrics.jsonl", {"step": step, "probe_loss": 2.0 - train * step / 30})
        noise = [0.01 * (row % 7 - 3) * (step - 10) / 10 for row in range(rows)]
        run.append("rows.jsonl", {"step": step, "val_row_loss": [None, *(loss + part for part in noise)]})
    return read_facts(run.path)


def test_divergence_is_tested_row_by_row(tmp_path: Path) -> None:
    """Rows that are clearly worse open a zone at the first such validation, unless training loss rises, too."""
    zone = divergence_zone(rising(tmp_path / "a", rows=40, shift=0.05))
    assert zone is not None
    assert (zone.start, zone.end, zone.lowest, zone.is_tested) == (20, 30, 10, True)
    assert zone.rise == pytest.approx(0.05)
    assert divergence_zone(rising(tmp_path / "b", rows=40, shift=0.0)) is None
    assert divergence_zone(rising(tmp_path / "c", rows=40, shift=0.05, train=-1.0)) is None


def test_divergence_of_few_rows_is_a_plain_rule(tmp_path: Path) -> None:
    """Fewer than eight rows are not tested: a loss 2 % above its lowest counts, one below does not."""
    zone = divergence_zone(rising(tmp_path / "a", rows=5, shift=0.03))
    assert zone is not None
    assert not zone.is_tested
    assert divergence_zone(rising(tmp_path / "b", rows=5, shift=0.01)) is None


def test_alarms_come_worst_first(facts: Facts) -> None:
    """Errors stand before warnings and these before the rest, each by step; the errors are told at the top."""
    assert [(alarm["severity"], alarm["step"]) for alarm in sorted_alarms(facts)] == [
        ("error", STEPS),
        ("warning", SPIKES[0]),
        ("warning", SPIKES[1]),
        ("warning", STEPS - 20),
        ("info", STEPS - 60),
    ]
    assert [alarm["called"] for alarm in pressing_alarms(facts)] == ["Forgetting (G4)"]


def test_spikes_name_their_rows(facts: Facts) -> None:
    """Each step that spiked has its rows; one that stands in both is named as the likeliest culprit."""
    found = spikes(facts)
    assert [spike.step for spike in found] == list(SPIKES)
    assert found[0].grad_norm == 9.5
    assert found[0].rows[:2] == ("train.jsonl:77", "train.jsonl:61")
    assert repeated_rows(found) == [("train.jsonl:77", 2)]


def test_old_runs_have_alarms_in_their_result(tmp_path: Path) -> None:
    """Without alarms.jsonl the alarms of result.json are shown."""
    path = write_run(tmp_path)
    (path / "alarms.jsonl").unlink()
    assert len(read_facts(path).alarms) == 5


def test_a_name_that_is_not_ours_is_an_alarm() -> None:
    """A name out of a damaged folder never stands in a chart."""
    assert alarm_name({"id": "G3", "name": "opener-collapse"}) == "opener collapse (G3)"
    assert alarm_name({"id": "G3", "name": "<a href='https://example.org'>"}) == "alarm"
    assert alarm_name({"id": ["G3"], "name": "spike"}) == "alarm"


def test_forgetting_is_drawn_from_the_base_model(facts: Facts) -> None:
    """General loss has the base model as a dashed line; both divergences share a chart; tables hold the figures."""
    loss, kl = forgetting_charts(facts)
    assert curve(loss, "base model")["y"] == [3.12, 3.12]
    assert curve(loss, "general text")["x"][-1] == STEPS
    assert loss.rows[-1] == (str(STEPS), "3.550")
    assert [trace["name"] for trace in kl.plot["data"]] == ["general text", "validation answers"]
    assert [chart.id for chart in memorising_charts(facts)] == ["known_loss", "known_accuracy"]


def test_answers_stand_beside_the_references(facts: Facts) -> None:
    """Openers show data, base and tuned; scores are drawn under names of ours."""
    charts = {chart.id: chart for chart in answer_charts(facts)}
    assert list(charts) == ["openers", "answer_tokens", "finish_rate", "distinct_2", "compression", "stop", "scores"]
    openers = charts["openers"]
    assert curve(openers, "references")["y"][0] == 0.98
    assert curve(openers, "base model")["y"] == [0.22, 0.22]
    assert openers.header == ("Step", "Answers", "References")
    assert "sampled" in openers.unit
    assert [trace["name"] for trace in charts["scores"].plot["data"]] == ["Valid JSON", "Fields right"]


def test_a_run_without_guards_has_no_such_charts(tmp_path: Path) -> None:
    """An old run, or one with guards off, has none of these charts and nothing breaks."""
    run = RunFolder.create(tmp_path / "old")
    run.append("metrics.jsonl", {"step": 1, "loss": 2.0}, {"step": 1, "val_loss": 2.0})
    facts = read_facts(run.path)
    assert [*forgetting_charts(facts), *memorising_charts(facts), *answer_charts(facts)] == []
    assert break_down(facts) is None
    assert heated_rows(facts) == []
    assert followed_prompts(facts) == []


def test_breakdown_puts_the_base_model_beside_the_kept_step(facts: Facts) -> None:
    """Each part has its loss before training and at the step that is kept, drawn on one scale for all."""
    found = break_down(facts)
    assert found is not None
    assert found.step == facts.result["best_step"]
    assert [group.title for group in found.groups][:2] == ["By source", "By turn of the conversation"]
    first = found.groups[2].parts[0]
    assert first.name == "first"
    assert first.loss_before == pytest.approx(4.871 * 1.4)
    assert first.at[0] == 98.0
    assert first.at[1] is not None
    assert first.at[1] < 15


def test_breakdown_leaves_out_what_has_one_part(tmp_path: Path) -> None:
    """A kind with one part says what the whole says and is left out; damaged parts are passed over."""
    run = RunFolder.create(tmp_path / "one")
    parts = [{"by": "turn", "name": "1", "loss": 1.0}, {"by": "position", "name": "first", "loss": "nan"}, 3]
    run.append("breakdown.jsonl", {"step": 4, "parts": [*parts, {"by": "position", "name": "2-4", "loss": 2.0}]})
    found = break_down(read_facts(run.path))
    assert found is not None
    assert [group.title for group in found.groups] == ["By place in the answer"]
    assert not found.has_base
    assert found.groups[0].parts[0].loss is None


def test_tokens_have_their_heat(tmp_path: Path) -> None:
    """A learned token has its loss and colour, what is not learned is one piece, and the hardest are named visibly."""
    run = RunFolder.create(tmp_path / "heat")
    pieces = [["Hi", None], [" you", None], ["a", 0.05], [" b\n", 3.0], ["c", 9.5], ["end", None]]
    worst = {"file": "/data/v.jsonl", "line": 3, "loss": 4.2, "base_loss": None, "tokens": 6, "pieces": pieces}
    run.write_json("extremes.json", {"step": 4, "worst": [worst], "best": "damaged"})
    (row,) = heated_rows(read_facts(run.path))
    assert (row.kind, row.place) == ("worst", "v.jsonl:3")
    assert [(piece.text, piece.heat) for piece in row.pieces] == [
        ("Hi you", None),
        ("a", 0),
        (" b\n", 4),
        ("c", 5),
        ("end", None),
    ]
    assert row.hardest[:2] == (("c", "9.50"), ("\u2423b\u21b5", "3.00"))


def test_answers_over_time(facts: Facts) -> None:
    """Each fixed prompt has the base model's answer and one for each validation, with what is right about it."""
    first, second = followed_prompts(facts)
    assert first.base is not None
    assert (first.base.step, first.base.finished, first.base.judged) == (0, False, "0 of 5 fields right")
    assert [answer.step for answer in first.answers] == [record["step"] for record in facts.valids[1:]]
    assert first.answers[0].judged == "4 of 5 fields right"
    assert second.answers[-1].judged == "equals the reference"


def test_many_validations_are_thinned(tmp_path: Path) -> None:
    """Of very many validations some answers are shown, the first, the last and the kept one among them."""
    run = RunFolder.create(tmp_path / "many")
    known = {"file": "v", "line": 1, "prompt": "p", "reference": "r"}
    for step in range(1, 200):
        run.append("metrics.jsonl", {"step": step, "val_loss": 1.0 if step == 77 else 2.0})
        run.append("samples.jsonl", {"step": step, "system": "tuned", **known, "answer": json.dumps(step)})
    (prompt,) = followed_prompts(read_facts(run.path))
    steps = [answer.step for answer in prompt.answers]
    assert len(steps) <= MAX_TIMES + 1
    assert {1, 77, 199} <= set(steps)

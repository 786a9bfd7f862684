"""Verdicts in words: what the report says first, and only what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attune.record import RunFolder
from attune.show.facts import read_facts
from attune.show.verdict import alarm_sentence, verdict
from tests.show.run_folder import write_run


def test_verdict_of_an_evaluation(tmp_path: Path) -> None:
    """An evaluation's verdict is the headline; the curves come after it."""
    headline, sentences = verdict(read_facts(write_run(tmp_path)))
    assert headline == "The tuned model is better: fields right 0.0 % to 93.2 %, valid JSON 0.5 % to 98.5 %."
    assert sentences[0] == "Measured on the same 200 rows of test.jsonl for every model, paired row by row."
    assert sentences[1].startswith("Validation loss fell from 4.871 (base) to 0.388 nats per token (92 % lower)")


def test_verdict_without_evaluation(tmp_path: Path) -> None:
    """Without an evaluation the headline is the validation loss, and the page does not claim better answers."""
    headline, sentences = verdict(read_facts(write_run(tmp_path, evaluated=False)))
    assert headline.startswith("Validation loss fell from 4.871 (base) to 0.388")
    assert sentences[0].startswith("It rose again to 0.486 by step 282; the model kept is that of step 196")
    assert sentences[-1] == "Whether its answers are better has not been measured yet."


@pytest.mark.parametrize(
    ("word", "headline"),
    [
        ("better", "The tuned model is better than the base model."),
        ("worse", "The tuned model is worse than the base model."),
        ("no evidence", "There is no evidence that the tuned model differs from the base model."),
        ("", "An evaluation was made, but it holds no verdict."),
    ],
)
def test_single_words_become_sentences(word: str, headline: str, tmp_path: Path) -> None:
    """A verdict of one word is spelled out."""
    path = write_run(tmp_path)
    RunFolder(path).write_json("eval/test.json", {"rows": 3, "verdict": word})
    assert verdict(read_facts(path))[0] == headline


def broken_run(folder: Path, result: dict[str, Any], *losses: float) -> Path:
    """A run that has only some validations and a result."""
    run = RunFolder.create(folder / "broken")
    run.write_json("result.json", result)
    run.append("metrics.jsonl", *({"step": 10 * index, "val_loss": loss} for index, loss in enumerate(losses)))
    run.append("metrics.jsonl", {"step": 12, "loss": 2.0})
    run.append("events.jsonl", {"kind": "error", "message": "loss is NaN at step 13"})
    return run.path


def test_verdict_of_a_failed_run(tmp_path: Path) -> None:
    """A failed run says first that and where it failed, and why."""
    headline, sentences = verdict(read_facts(broken_run(tmp_path, {"status": "failed", "total_steps": 50}, 3.0, 2.0)))
    assert headline == "The run failed at step 12 of 50."
    assert sentences[0] == "loss is NaN at step 13"
    assert "fell from 3.000 (base) to 2.000" in sentences[1]


def test_verdict_of_a_killed_run(tmp_path: Path) -> None:
    """A killed run leaves `running` and the best step of its start: the step is read off the metrics instead."""
    headline, sentences = verdict(read_facts(broken_run(tmp_path, {"status": "running", "best_step": 0}, 3.0, 2.5)))
    assert headline == "The run has not finished: the last record is step 12."
    assert any("best at step 10" in said for said in sentences)


def test_verdict_of_a_run_that_learned_nothing(tmp_path: Path) -> None:
    """When validation loss only rose, the headline says so."""
    headline, _ = verdict(read_facts(broken_run(tmp_path, {"status": "done"}, 2.0, 2.5, 2.7)))
    assert (
        headline
        == "Validation loss never fell below the base model's 2.000 nats per token; the best is 2.500 at step 10."
    )


def test_verdict_of_nothing(tmp_path: Path) -> None:
    """A run without validation and evaluation claims nothing."""
    headline, sentences = verdict(read_facts(broken_run(tmp_path, {"status": "done"})))
    assert headline == "Nothing was measured: the run has no validation rows and no evaluation."
    assert sentences == []


def test_verdict_names_what_was_forgotten(tmp_path: Path) -> None:
    """The loss on general text is told from the base model to the step that is kept; a tiny move is none."""
    path = write_run(tmp_path)
    said = verdict(read_facts(path))[1]
    assert (
        "It forgets: on general text the loss rose from 3.120 to 3.328 nats per token (23 % more perplexity)." in said
    )
    run = RunFolder.create(tmp_path / "same")
    for step, loss in ((0, 3.0), (10, 3.004)):
        run.append("metrics.jsonl", {"step": step, "val_loss": 2.0 - step / 20})
        run.append("metrics.jsonl", {"step": step, "probe_loss": 1.0, "general_loss": loss})
    said = verdict(read_facts(run.path))[1]
    assert "It forgets nothing that shows: on general text the loss stays at 3.004 nats per token." in said


def test_verdict_names_where_validation_parts(tmp_path: Path) -> None:
    """The step from which rows are significantly worse than at the lowest loss is told while training still falls."""
    said = " ".join(verdict(read_facts(write_run(tmp_path)))[1])
    assert "From step 224 on it is significantly above its lowest while training loss still falls" in said


def test_verdict_says_what_chose_the_step(tmp_path: Path) -> None:
    """Where a task metric chooses, the highest score is kept and named, with what the base model had."""
    run = RunFolder.create(tmp_path / "chosen")
    run.write_text("config.yaml", "early_stop:\n  metric: field_accuracy\n")
    for step, loss, score in ((0, 3.0, 0.1), (10, 1.0, 0.5), (20, 1.2, 0.9), (30, 1.4, 0.7)):
        run.append("metrics.jsonl", {"step": step, "val_loss": loss})
        run.append("metrics.jsonl", {"step": step, "probe_loss": loss, "scores": {"field_accuracy": score}})
    facts = read_facts(run.path)
    assert facts.best is not None
    assert facts.best["step"] == 20
    assert "Step 20 is kept for its fields right: 90.0 %, 10.0 % before." in " ".join(verdict(facts)[1])


def test_alarm_sentence(tmp_path: Path) -> None:
    """Errors and warnings are counted with their guards; what is only worth knowing is not."""
    facts = read_facts(write_run(tmp_path))
    assert alarm_sentence(facts) == "1 error: forgetting (G4); 3 warnings: spike (G5) 2 times, overfit (G1)"

"""Figures and verdicts in words: what the report says first, and only what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attune.record import RunFolder
from attune.show.facts import read_facts
from attune.show.words import count, duration, figure, metric_difference, metric_value, percent, size, verdict, visible
from tests.show.run_folder import write_run


def test_numbers() -> None:
    """Numbers are written as people read them; what is no number is a dash."""
    assert count(1234567) == "1,234,567"
    assert figure(0.3884) == "0.388"
    assert figure(130.451) == "130.5"
    assert figure(1.2e14) == "1.2e+14"
    assert figure(-4.5) == "\u22124.500"
    assert figure("nan") == "nan"
    assert percent(0.985) == "98.5 %"
    assert [percent(share) for share in (0, 0.0001, 0.0005)] == ["0.0 %", "< 0.1 %", "0.1 %"]
    assert duration(12.34) == "12.3 s"
    assert duration(110) == "1 min 50 s"
    assert duration(7384) == "2 h 03 min"
    assert size(512345) == "512.3 kB"
    assert size(12) == "12 bytes"
    assert [count(None), percent(None), duration(None), size(None)] == ["-"] * 4


def test_metrics_have_their_units() -> None:
    """Losses are in nats, everything else is a share; a difference has its sign."""
    assert metric_value("loss", 1.5) == "1.500"
    assert metric_value("field_accuracy", 0.932) == "93.2 %"
    assert metric_difference("loss", -0.25) == "\u22120.250"
    assert metric_difference("json_valid", 0.98) == "+98.0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a[U+202E]b"),
        ("\u0000\u001b[31m", "[U+0000][U+001B][31m"),
        ("zero\u200bwidth\ufeff", "zero[U+200B]width[U+FEFF]"),
        ("tag\U000e0041", "tag[U+E0041]"),
        ("line\r\n\tend", "line[U+000D]\n\tend"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
    ],
)
def test_hidden_characters_are_written_out(text: str, shown: str) -> None:
    """Characters that hide or reorder text are written out; letters of any script and their joiners stay."""
    assert visible(text) == shown


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

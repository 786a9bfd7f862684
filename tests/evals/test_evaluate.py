"""An evaluation measures base and tuned model on the same rows, writes what it found, and names what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.errors import CheckpointError, ConfigError, DataError, RefusedError
from attune.evals.evaluate import evaluate
from attune.train.run import finetune
from tests.tiny import write_model_folder

Make = Callable[..., Path]
COLOURS = ("red", "green", "blue", "grey")


def write_tickets(path: Path, number: int, *, first: int = 0) -> Path:
    """Write questions whose answers are small JSON objects that a tiny model learns quickly."""
    with path.open("w") as file:
        for row in range(first, first + number):
            answer = json.dumps({"c": COLOURS[row % 4], "n": row % 3})
            file.write(json.dumps({"prompt": f"{row} {COLOURS[row % 4]} {row % 3}", "completion": answer}) + "\n")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a maker of finished runs on small rows; a run with the same settings is made once."""
    made: dict[str, Path] = {}

    def make(**settings: Any) -> Path:
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("run")
            base = write_model_folder(folder / "model")
            rows = write_tickets(folder / "rows.jsonl", 48)
            config = Config(model=str(base), out=str(folder / "run"), device="cpu").with_values(
                {
                    "data.train": str(rows),
                    "data.valid_share": 0.25,
                    "train.steps": 60,
                    "train.batch_rows": 12,
                    "train.learning_rate": 0.01,
                    "valid.every": 60,
                    **settings,
                }
            )
            made[key] = finetune(config).folder
        return made[key]

    return make


@pytest.fixture
def schema(tmp_path: Path) -> str:
    """A schema that all references obey."""
    path = tmp_path / "schema.json"
    fields = {"c": {"enum": list(COLOURS)}, "n": {"type": "integer"}}
    path.write_text(json.dumps({"type": "object", "properties": fields, "required": ["c", "n"]}))
    return str(path)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_tuned_model_is_better_than_its_base(make_run: Make, kind: str, schema: str) -> None:
    """The document holds every metric of both systems, paired comparisons and a verdict that agrees with them."""
    run = make_run(**{"adapter.kind": kind})
    heard: list[tuple[str, Any]] = []
    document = evaluate(run, schema=schema, max_new_tokens=40, on_event=lambda *event: heard.append(event))
    held = sum(entry.get("state") == "held_out" for entry in lines(run / "ledger.jsonl"))
    assert document["rows"] == held > 5
    names = ["exact_match", "json_valid", "schema_valid", "field_accuracy", "stop_rate", "loss"]
    assert list(document["systems"]["base"]) == list(document["systems"]["tuned"]) == names
    assert [c["metric"] for c in document["comparisons"]] == names
    by_name = {c["metric"]: c for c in document["comparisons"]}
    assert by_name["loss"]["verdict"] == "better"
    assert by_name["loss"]["difference"] < 0
    for name, found in by_name.items():
        values = [document["systems"][system][name] for system in ("base", "tuned")]
        assert found["difference"] == pytest.approx(values[1] - values[0])
        assert found["low"] <= found["difference"] <= found["high"]
    assert document["systems"]["base"]["json_valid"] == 0
    assert "Tuned is better than base" in document["verdict"]
    done = [payload for kind, payload in heard if kind == "progress"]
    assert done[-1] == {"system": "tuned", "rows": held, "of": held}


def test_what_is_written_is_what_is_returned(make_run: Make) -> None:
    """eval/NAME.json is the document; eval/NAME.jsonl has each row's place, question, answers and scores."""
    run = make_run()
    document = evaluate(run, name="again", max_new_tokens=30)
    assert json.loads((run / "eval" / "again.json").read_text()) == document
    rows = lines(run / "eval" / "again.jsonl")
    source = (run.parent / "rows.jsonl").read_text().splitlines()
    for row in rows:
        written = json.loads(source[row["line"] - 1])
        assert (row["prompt"], row["reference"]) == (written["prompt"], written["completion"])
        assert set(row["answers"]) == set(row["finished"]) == set(row["scores"]) == {"base", "tuned"}
        for system in ("base", "tuned"):
            right = row["answers"][system].strip() == row["reference"]
            assert row["scores"][system]["exact_match"] == right
            assert row["scores"][system]["stop_rate"] == row["finished"][system]
    mean = sum(row["scores"]["tuned"]["field_accuracy"] for row in rows) / len(rows)
    assert document["systems"]["tuned"]["field_accuracy"] == pytest.approx(mean)


def test_the_loss_is_that_of_the_runs_own_validation(make_run: Make) -> None:
    """Same rows, same mask, same mean: base and tuned loss are the recorded val_loss before and after training."""
    run = make_run()
    records = lines(run / "metrics.jsonl")
    losses = [record["val_loss"] for record in records if "val_loss" in record]
    values = {name: system["loss"] for name, system in evaluate(run, max_new_tokens=8)["systems"].items()}
    assert values == {"base": pytest.approx(losses[0], rel=1e-5), "tuned": pytest.approx(losses[-1], rel=1e-5)}


def test_other_rows_and_a_limit(make_run: Make, tmp_path: Path) -> None:
    """`data` takes the place of the held-out rows; `limit` spreads over all of them."""
    rows = write_tickets(tmp_path / "other.jsonl", 21, first=100)
    document = evaluate(make_run(), data=str(rows), limit=3, max_new_tokens=8, name="other")
    assert (document["rows"], document["data"]) == (3, str(rows))
    written = lines(make_run() / "eval" / "other.jsonl")
    assert [(row["file"], row["line"]) for row in written] == [(str(rows), 1), (str(rows), 11), (str(rows), 21)]


def test_the_answer_limit_comes_from_the_references(make_run: Make) -> None:
    """Without a wish it is 1.5 times the longest usual reference, and said so."""
    notes: list[str] = []
    document = evaluate(make_run(), limit=2, on_event=lambda kind, said: notes.append(said) if kind == "note" else None)
    longest = max(len(json.dumps({"c": colour, "n": 0})) + 1 for colour in COLOURS)  # a token per byte, and the end
    assert 16 <= document["max_new_tokens"] <= 1.5 * longest + 1
    assert f"at most {document['max_new_tokens']} tokens: 1.5 times" in notes[0]


def test_several_turns_are_scored_on_the_last_answer(make_run: Make, tmp_path: Path) -> None:
    """The history is the true one, and the question shows it with its roles."""
    path = tmp_path / "chat.jsonl"
    turns = ["1 red 1", '{"c": "red"}', "2 blue 2", '{"c": "blue"}']
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    evaluate(make_run(), data=str(path), max_new_tokens=4, name="chat")
    row = json.loads((make_run() / "eval" / "chat.jsonl").read_text())
    assert row["reference"] == turns[3]
    assert row["prompt"] == 'user: 1 red 1\nassistant: {"c": "red"}\nuser: 2 blue 2'


def test_plain_text_has_only_a_loss(make_run: Make, tmp_path: Path) -> None:
    """Nothing is generated for rows that ask nothing; rows over the context are counted, not lost."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["one two three", "four five", "x" * 400]))
    document = evaluate(make_run(), data=str(path), name="text")
    assert list(document["systems"]["tuned"]) == ["loss"]
    assert (document["rows"], document["rows_without_loss"], document["comparisons"][0]["rows"]) == (3, 1, 2)
    rows = lines(make_run() / "eval" / "text.jsonl")
    assert [row["answers"] for row in rows] == [{}, {}, {}]
    assert [bool(row["scores"]["base"]) for row in rows] == [True, True, False]


def test_a_run_without_a_model_is_not_evaluated(make_run: Make, tmp_path: Path) -> None:
    """The message says how to finish the run, or that its model was lost."""
    copy = tmp_path / "unfinished"
    shutil.copytree(make_run(), copy)
    shutil.rmtree(copy / "model")
    with pytest.raises(CheckpointError, match=r"is finished, but its model is gone\. Restore .*model, or train anew"):
        evaluate(copy)
    (copy / "result.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model yet\. Finish the run: attune resume"):
        evaluate(copy)
    with pytest.raises(ConfigError, match="not found"):
        evaluate(tmp_path / "absent")


def test_held_out_rows_must_still_be_there(make_run: Make, tmp_path: Path) -> None:
    """A changed or lost data file is refused, and so is a run that held no rows out."""
    run = make_run()
    rows = run.parent / "rows.jsonl"
    before = rows.read_bytes()
    rows.write_bytes(before + b'{"prompt": "new", "completion": "row"}\n')
    with pytest.raises(RefusedError, match=r"rows\.jsonl changed since the run"):
        evaluate(run)
    rows.unlink()
    with pytest.raises(RefusedError, match=r"rows\.jsonl is gone"):
        evaluate(run)
    rows.write_bytes(before)
    with pytest.raises(ConfigError, match="held out no rows"):
        evaluate(make_run(**{"data.valid_share": 0.0, "train.steps": 1}))


def test_rows_that_cannot_be_asked_are_named(make_run: Make, tmp_path: Path) -> None:
    """No answer to compare with, no room to answer, a bad schema, a bad name: each says which."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a question alone"}) + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        evaluate(make_run(), data=str(path))
    path.write_text(json.dumps({"prompt": "x" * 300, "completion": "y"}) + "\n")
    with pytest.raises(
        DataError,
        match=r"1 of 1 prompts fill the context of 256 tokens.*\nThey stand at .*rows\.jsonl:1",
    ):
        evaluate(make_run(), data=str(path))
    with pytest.raises(ConfigError, match=r"schema: .*absent\.json cannot be read"):
        evaluate(make_run(), schema=str(tmp_path / "absent.json"))
    (tmp_path / "broken.json").write_text('{"type": ')
    with pytest.raises(ConfigError, match=r"broken\.json:1:\d+ is not JSON"):
        evaluate(make_run(), schema=str(tmp_path / "broken.json"))
    with pytest.raises(ConfigError, match="cannot name an evaluation"):
        evaluate(make_run(), name="../up")

"""From files to what is trained on: sources and weights, the split, copies, refusals, and a ledger that reconciles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.config import Config
from attune.data.batch import to_batch
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import Prepared
from attune.data.stream import Stream
from attune.errors import DataError
from attune.train.run import finetune, gather
from attune.types import NOT_LEARNED
from tests.data.sets import alike, chat, pair, pairs, prepare_config, settings_of, write_model_head, write_set


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that is good enough until the model is loaded."""
    return write_model_head(tmp_path_factory.mktemp("base"))


def states(prepared: Prepared) -> dict[str, str]:
    """Return what became of each row, by file:line."""
    return {f"{Path(e.place.file).name}:{e.place.line}": e.state for e in prepared.entries[:]}


def contradicting() -> list[dict[str, Any]]:
    """Return rows that are asked twice and labelled yes once, no once."""
    return [pair(row["prompt"], label) for row in pairs(10) for label in ("yes", "no")]


def test_sources_with_weights_are_one_corpus(tmp_path: Path) -> None:
    """Rows of all sources stand in order with names and copies, and each source comes as often as its weight says."""
    names = [write_set(tmp_path / f"{name}.jsonl", pairs(8, seed=at)) for at, name in enumerate("abc")]
    train = [names[0], {"path": names[1], "weight": 0.5, "name": "half"}, {"path": names[2], "weight": 2.0}]
    corpus = prepare_config(settings_of(train), tmp_path).train
    assert [place.line for place in corpus.places] == [*range(1, 9)] * 3
    assert [place.file for place in corpus.places] == [name for name in names for _ in range(8)]
    assert corpus.sources == (names[0],) * 8 + ("half",) * 8 + (names[2],) * 8
    assert corpus.copies is not None
    assert corpus.copies.tolist() == [1.0] * 8 + [0.5] * 8 + [2.0] * 8
    stream = Stream(corpus.lengths, seed=0, batch_rows=4, copies=corpus.copies)
    assert stream.steps_per_epoch() == (8 + 4 + 16) // 4
    taken = stream.effective_epochs(stream.steps_in(4))
    assert [set(taken[first : first + 8].tolist()) for first in (0, 8, 16)] == [{4}, {2}, {8}]
    once = stream.effective_epochs(stream.steps_in(1))
    assert [once[first : first + 8].mean() for first in (0, 8, 16)] == [1.0, 0.5, 2.0]


def test_held_out_rows_leave_copies_in_order(tmp_path: Path) -> None:
    """After the split each training row has the copies of its own file; held-out rows come once."""
    a, b = (write_set(tmp_path / f"{name}.jsonl", pairs(60, seed=at)) for at, name in enumerate("ab"))
    train = [{"path": a, "weight": 2.0}, b]
    prepared = prepare_config(settings_of(train, **{"data.valid_share": 0.2}), tmp_path)
    assert prepared.valid is not None
    assert prepared.valid.copies is None
    assert prepared.train.copies is not None
    assert prepared.train.copies.tolist() == [2.0 if place.file == a else 1.0 for place in prepared.train.places]
    assert {place.file for place in prepared.valid.places} == {a, b}


def test_rows_bring_weight_and_source(tmp_path: Path) -> None:
    """A row's own weight is that of each of its tokens, its source is what it is called; other rows weigh 1."""
    rows = pairs(4)
    rows[1] |= {"weight": 0.25, "source": "forum"}
    rows[3] |= {"source": "book"}
    train = [{"path": write_set(tmp_path / "rows.jsonl", rows), "name": "mine"}]
    corpus = prepare_config(settings_of(train), tmp_path).train
    assert corpus.sources == ("mine", "forum", "mine", "book")
    assert corpus.weights is not None
    assert corpus.weights.tolist() == np.repeat([1.0, 0.25, 1.0, 1.0], corpus.lengths).tolist()


def test_weights_of_turns_reach_the_token_that_is_predicted(tmp_path: Path) -> None:
    """Turns of a row may weigh differently; in a batch each position has the weight of the token it must predict."""
    row = chat(
        ("user", "first?", {}),
        ("assistant", "one", {"weight": 0.5}),
        ("user", "second?", {}),
        ("assistant", "two", {"weight": 3}),
        weight=2,
    )
    plain = chat(("user", "third?", {}), ("assistant", "three", {}))
    config = settings_of(write_set(tmp_path / "rows.jsonl", [plain, row, plain]))
    corpus = prepare_config(config, tmp_path).train
    batch = to_batch(corpus, [1, 2, 1])
    assert batch.weights is not None
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    said: list[tuple[float, str]] = []
    for document in range(3):
        span = slice(int(batch.q_offsets[document]), int(batch.q_offsets[document + 1]))
        targets, weights = batch.targets[span], batch.weights[span]
        for weight in sorted(set(weights[targets != NOT_LEARNED].tolist())):
            learned = targets[(targets != NOT_LEARNED) & (weights == weight)]
            said.append((weight, tokenizer.decode(learned.tolist())))
    assert said == [(1.0, "one</s>"), (6.0, "two</s>"), (1.0, "three</s>"), (1.0, "one</s>"), (6.0, "two</s>")]


def test_rows_alike_stand_on_one_side(tmp_path: Path) -> None:
    """Near-duplicates draw one lot: whatever the seed, no group has rows on both sides, across files too."""
    rows = alike(30)
    files = [write_set(tmp_path / "a.jsonl", rows[0::3] + rows[1::3]), write_set(tmp_path / "b.jsonl", rows[2::3])]
    groups_held = set()
    for seed in range(5):
        config = settings_of(files, seed=seed, **{"data.valid_share": 0.2})
        prepared = prepare_config(config, tmp_path)
        sides: dict[int, set[str]] = {}
        for name, state in states(prepared).items():
            sides.setdefault(int(name.split(":")[1]) % 30, set()).add(state)
        assert len(sides) == 30
        assert all(len(side) == 1 for side in sides.values()), seed
        held = {group for group, side in sides.items() if side == {"held_out"}}
        assert 0 < len(held) < 20
        groups_held |= held
    assert len(groups_held) > 8, "the seed decides which"


@pytest.mark.parametrize("most", [1, 6, 200])
def test_held_out_examples_are_the_held_out_rows(tmp_path: Path, most: int) -> None:
    """Row by row and in order, also where rows that nobody kept are read again."""
    rows = alike(60, of=2 if most == 6 else 1)
    half = len(rows) // 2
    files = [write_set(tmp_path / "a.jsonl", rows[:half]), write_set(tmp_path / "b.jsonl", rows[half:])]
    read_again = 0
    for seed in range(4):
        config = settings_of(files, seed=seed, **{"data.valid_share": 0.3, "data.valid_rows": most})
        prepared = prepare_config(config, tmp_path)
        assert prepared.valid is not None
        assert 0 < prepared.valid.num_rows == prepared.ledger.counts["held_out"] <= most
        assert [example.place for example in prepared.valid_examples] == list(prepared.valid.places)
        tokenizer = prepared.template.tokenizer
        for number, example in enumerate(prepared.valid_examples):
            tokens, learned = prepared.valid.row(number)
            assert tokenizer.decode(tokens[learned].tolist()) == f"{example.messages[-1].content}</s>"
        kept = {example.place for collection in prepared.collections for _, _, example in collection.lowest}
        read_again += not {example.place for example in prepared.valid_examples} <= kept
    assert (read_again > 0) == (most == 6)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_copies_are_left_out(tmp_path: Path, share: float) -> None:
    """data.duplicates = drop trains the first of equal rows, the ledger says what became of the others and adds up."""
    rows = pairs(40)
    a = write_set(tmp_path / "a.jsonl", [*rows[:20], *rows[:5], pair("q", "")])
    b = write_set(tmp_path / "b.jsonl", [*rows[3:8], *rows[20:], rows[30]])
    config = settings_of([a, {"path": b, "weight": 2.0}], **{"data.valid_share": share, "data.duplicates": "drop"})
    prepared = prepare_config(config, tmp_path)
    ledger = prepared.ledger
    copies = {name for name, state in states(prepared).items() if state == "duplicate"}
    assert copies == {f"a.jsonl:{line}" for line in range(21, 26)} | {f"b.jsonl:{line}" for line in (1, 2, 3, 4, 5, 26)}
    assert ledger.reasons["duplicate: repeats an earlier row"] == ledger.counts["duplicate"] == 11
    assert sum(ledger.counts.values()) == ledger.rows == 26 + 26
    assert prepared.train.num_rows == ledger.counts["used"] == 40 - ledger.counts["held_out"]
    assert (ledger.counts["held_out"] > 0) == (share > 0)
    assert ledger.tokens_in == len(prepared.train.tokens)
    assert (ledger.tokens_learned, ledger.tokens_lost) == (prepared.train.num_learned, 0)
    trained = {f"{Path(place.file).name}:{place.line}" for place in prepared.train.places}
    assert trained == {name for name, state in states(prepared).items() if state == "used"}
    kept = prepare_config(config.with_values({"data.duplicates": "keep"}), tmp_path)
    assert kept.ledger.counts["duplicate"] == 0
    assert kept.train.num_rows + kept.ledger.counts["held_out"] == 51


def test_tokens_reconcile_where_copies_are_cut(tmp_path: Path) -> None:
    """Copies that were cut first, long rows and held-out rows: every token of a training row is in the sums once."""
    long = pair("why?", "many words " * 30)
    rows = [*pairs(30), long, pairs(1)[0], long]
    for overlong in ("cut", "split", "drop"):
        settings = {"data.max_length": 150, "data.overlong": overlong, "data.duplicates": "drop"}
        config = settings_of(write_set(tmp_path / "a.jsonl", rows), **settings, **{"data.valid_share": 0.2})
        prepared = prepare_config(config, tmp_path)
        prepared.ledger.check()
        assert prepared.ledger.counts["duplicate"] == (1 if overlong == "drop" else 2)
        assert prepared.ledger.counts["dropped"] == (2 if overlong == "drop" else 0)
        again = prepared.train.num_rows - prepared.ledger.counts["used"] - prepared.ledger.counts["cut"]
        assert again == (2 if overlong == "split" else 0), "pieces after the first begin with the last one's end"
        kept = prepared.ledger.tokens_learned + prepared.ledger.tokens_context
        assert kept == len(prepared.train.tokens) - again
        said = prepared.ledger.reasons.get("duplicate: repeats an earlier row, cut: too long", 0)
        assert said == (overlong == "cut")


def test_files_that_are_held_out_are_never_trained(tmp_path: Path) -> None:
    """Validation and test files inside the training folder give no training row, and the ledger says what they are."""
    folder = tmp_path / "rows"
    for at, name in enumerate(("a", "b", "valid", "test")):
        write_set(folder / f"{name}.jsonl", pairs(5, seed=at))
    settings = {"data.valid": str(folder / "valid.jsonl"), "data.test": [str(folder / "test.jsonl")]}
    prepared = prepare_config(settings_of(str(folder), **settings), tmp_path)
    assert Counter(Path(place.file).name for place in prepared.train.places) == {"a.jsonl": 5, "b.jsonl": 5}
    assert prepared.valid is not None
    assert {Path(place.file).name for place in prepared.valid.places} == {"valid.jsonl"}
    assert [example.place for example in prepared.valid_examples] == list(prepared.valid.places)
    assert prepared.ledger.reasons == {"held_out: test set": 5, "held_out: validation": 5}
    assert prepared.ledger.tokens_in == len(prepared.train.tokens)


def refused_config(tmp_path: Path, base: Path, **settings: Any) -> Config:
    """Return a run on rows that contradict each other, hold a key, unfilled slots and chat markup."""
    key = "AKIA" + "Q7RZT3VXW9PLMK2H"
    faults = [pair(f"Which key {n}?", f"Take {key[:-1]}{n} for it.") for n in "2345"]
    faults += [pair(f"Say {n}?", f"<|im_start|>assistant\nIt is {n}<|im_end|>") for n in "abcd"]
    faults += [pair(f"Answer {n}?", "TODO") for n in "abcd"]
    path = write_set(tmp_path / "rows.jsonl", contradicting() + faults)
    return settings_of(path, model=str(base), out=str(tmp_path / "run"), device="cpu", **{"train.steps": 1, **settings})


def test_errors_refuse_training(tmp_path: Path, base: Path) -> None:
    """What a check would not pass is not trained on: exit code 3, at most six lines, and nothing is written."""
    config = refused_config(tmp_path, base)
    with pytest.raises(DataError) as caught:
        gather(config, lambda kind, payload: pytest.fail("nothing is told"))
    lines = str(caught.value).splitlines()
    assert caught.value.exit_code == 3
    assert len(lines) <= 6
    assert any(line.startswith("D05 conflict: 20 rows") for line in lines)
    assert lines[-1].startswith("If the rows are meant so: --data.allow ")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError):
        finetune(config)
    assert sorted(tmp_path.rglob("*")) == before


def test_allowed_errors_pass_as_infos(tmp_path: Path, base: Path) -> None:
    """The words that the refusal proposes let the run start; every finding is still told."""
    config = refused_config(tmp_path, base)
    with pytest.raises(DataError) as caught:
        gather(config, lambda kind, payload: None)
    names = str(caught.value).rpartition("--data.allow ")[2].split(",")
    prepared = gather(config.with_values({"data.allow": names}), lambda kind, payload: None).prepared
    allowed = {finding.name: finding for finding in prepared.findings if finding.name in names}
    assert set(allowed) == set(names)
    assert all(finding.severity == "info" for finding in allowed.values())
    assert allowed["conflict"].message.startswith("allowed: 20 rows")
    with pytest.raises(DataError, match="D05 conflict"):
        gather(config.with_values({"data.allow": [name for name in names if name != "conflict"]}), lambda *_: None)


def test_ignored_rows_do_not_refuse(tmp_path: Path, base: Path) -> None:
    """An ignore file that names each faulty row lets the run start, too; one line less does not."""
    path = write_set(tmp_path / "rows.jsonl", [*pairs(10), pair("A?", "TODO"), pair("B?", "TBD")])
    config = settings_of(path, model=str(base), device="cpu", **{"data.ignore": str(tmp_path / "ignore")})
    (tmp_path / "ignore").write_text("# meant so\nplaceholder rows.jsonl:11-12\n")
    findings = gather(config, lambda *_: None).prepared.findings
    assert "placeholder" not in {finding.name for finding in findings}
    (tmp_path / "ignore").write_text("D10 rows.jsonl:11\n")
    with pytest.raises(DataError, match=r"D10 placeholder: 1 row \(8\.3%\) holds a slot .*\(line 12\)"):
        gather(config, lambda *_: None)

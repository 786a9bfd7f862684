"""The forty bad inputs, as a user meets them: through the command line, on a tiny real model, to the run folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attune.cli.main import main
from attune.errors import DataError
from tests.data import bad_inputs as bad
from tests.tiny import write_model_folder, write_rows

SOURCE = Path(__file__).resolve().parents[2] / "src"
CASES = [(number, variant) for number in bad.NUMBERS for variant in range(bad.VARIANTS.get(number, 1))]
SKIPPABLE = [(n, v) for n, v in CASES if bad.FAULTS[n][v].expect_error is DataError and bad.FAULTS[n][v].dropped]
USAGE, DATA, MODEL, REFUSED = 2, 3, 4, 7

pytestmark = pytest.mark.journey


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder."""
    return write_model_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test types its commands in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def attune(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command line in this process."""

    def run(*words: str) -> Ended:
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run


def in_a_process(*words: str) -> Ended:
    """Run a command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "attune", *words]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def assert_short(ended: Ended) -> None:
    """The fault is told in a few lines of text, not as a bug and not with a traceback."""
    assert 0 < len(ended.err.splitlines()) <= 6, ended.err
    assert max(map(len, ended.err.splitlines())) < 400
    for word in ("Traceback", "a bug in attune", ".py"):
        assert word not in ended.err + ended.out


def assert_refused(ended: Ended, code: int, *texts: str) -> None:
    """The command ended with this code and said these texts; no run folder was left behind."""
    assert ended.code == code, ended.err
    assert_short(ended)
    for text in texts:
        assert text in ended.err
    assert not Path("runs").exists()


def spoilt_words(number: int, variant: int, base: Path) -> tuple[bad.BadInput, list[str]]:
    """Write a bad input here; return it with the words that name its file, model and settings."""
    case = bad.write_bad_input(number, Path.cwd(), variant)
    model = base
    if case.tokenizer_folder is not None:
        model = Path(shutil.copytree(base, "model"))
        shutil.copytree(case.tokenizer_folder, model, dirs_exist_ok=True)
    settings = [f"--{name}={value}" for name, value in case.overrides.items()]
    return case, [case.path.name, "--model", str(model), *settings]


def read_run() -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the ledger's summary, its rows and the findings of the one run here."""
    (run,) = Path("runs").iterdir()
    first, *rows = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert json.loads((run / "result.json").read_text())["status"] == "done"
    return first["summary"], rows, json.loads((run / "findings.json").read_text())


def assert_reconciles(dropped: int) -> None:
    """The ledger of the one run here accounts for every row, and lists each dropped one with its reason."""
    summary, rows, _ = read_run()
    counts = summary["counts"]
    assert sum(counts.values()) == summary["rows"] == len(rows) == bad.ROWS
    assert +Counter(row["state"] for row in rows) == +Counter(counts)
    assert counts["dropped"] == dropped
    assert all(row["reason"] for row in rows if row["state"] == "dropped")
    assert sorted(row["line"] for row in rows if row["file"] == rows[0]["file"]) == sorted(
        {row["line"] for row in rows}
    )


@pytest.mark.parametrize(("number", "variant"), CASES)
def test_training_on_a_bad_file(attune: Callable[..., Ended], base: Path, number: int, variant: int) -> None:
    """It is refused with place and next step, or learned from with what was odd told and every row accounted for."""
    case, words = spoilt_words(number, variant, base)
    ended = attune("train", *words, "--train.steps=1")
    if case.expect_error is not None:
        assert_refused(ended, case.expect_error.exit_code, *case.expect_text)
        return
    assert (ended.code, ended.err) == (0, "")
    assert case.dropped is not None
    assert_reconciles(case.dropped)
    said = ended.out + "\n".join(finding["message"] for finding in read_run()[2])
    for text in case.expect_text:
        assert text in said


@pytest.mark.parametrize(("number", "variant"), SKIPPABLE)
def test_training_without_the_bad_rows(attune: Callable[..., Ended], base: Path, number: int, variant: int) -> None:
    """The setting that the message names, typed as it is written there, drops the bad rows and lists them."""
    case, words = spoilt_words(number, variant, base)
    assert case.dropped is not None
    advice = attune("train", *words).err.rpartition("drop them with ")[2].rstrip(".\n").split()
    assert advice == ["data.skip_bad_rows", "=", str(case.dropped)]
    ended = attune("train", *words, *advice, "--train.steps=1")
    assert ended.code == 0, ended.err
    assert f"{case.dropped} dropped: " in ended.out
    assert_reconciles(case.dropped)


@pytest.mark.parametrize(("number", "variant"), CASES)
def test_checking_a_bad_file(attune: Callable[..., Ended], base: Path, number: int, variant: int) -> None:
    """Check ends as training would, says the same, and its document accounts for every row."""
    case, words = spoilt_words(number, variant, base)
    ended = attune("check", *words)
    assert ended.code == (case.expect_error.exit_code if case.expect_error else 0)
    for text in case.expect_text:
        count_of_bad_rows = text.endswith((" good", "of 20"))
        assert text in ended.out + ended.err or count_of_bad_rows
    if ended.err:
        assert_short(ended)
    if ended.code in (0, DATA):
        document = json.loads(attune("check", *words, "--json").out)
        assert document["ok"] is (ended.code == 0)
        assert sum(document["ledger"].values()) == document["rows"]
        assert document["ledger"]["dropped"] == (case.dropped or 0)
        assert document["findings"]
    assert not Path("runs").exists()


BAD_CONFIGS = [
    (36, "train:\n  steps: 1\n  learning_rat: 0.1\n", '3:3 unknown key "learning_rat" - did you mean "learning_rate"?'),
    (37, 'train:\n  learning_rate: "1e-4"\n', '2:3 train.learning_rate {wanted} "1e-4" as text - take the quotes off'),
    (37, "train:\n  learning_rate: -1\n", "2:3 train.learning_rate {wanted} -1"),
    (37, "train:\n  learning_rate: nan\n", '2:3 train.learning_rate {wanted} "nan"'),
    (37, "train:\n  epochs: 0\n", "2:3 train.epochs must be a number above 0, found 0"),
    (37, "train:\n  batch_rows: 0\n", "2:3 train.batch_rows must be a whole number above 0, found 0"),
    (38, "seed: 1\nout: runs/a\nseed: 2\n", '3:1 "seed" is already set at c.yaml:1:1. Keep one.'),
    (38, "seed: !!python/object/apply:os.getcwd []\n", "1:7 tags (!!python/object/apply:os.getcwd) are not allowed"),
    (38, "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "1:4 anchors and aliases (&a) are not allowed"),
]


@pytest.mark.parametrize(("number", "text", "said"), BAD_CONFIGS)
def test_bad_configs(attune: Callable[..., Ended], base: Path, number: int, text: str, said: str) -> None:
    """A wrong config is refused with its place, before the data are looked at."""
    Path("c.yaml").write_text(text)
    said = f"c.yaml:{said.format(wanted='must be a number above 0, or auto, found')}"
    for verb in ("train", "check"):
        assert_refused(attune(verb, "absent.jsonl", "--config", "c.yaml", "--model", str(base)), USAGE, said)


def test_a_small_number_in_yaml_is_a_number(attune: Callable[..., Ended], base: Path) -> None:
    """1e-4 is taken for text by YAML 1.1, and for a number here."""
    Path("c.yaml").write_text("train:\n  learning_rate: 1e-4\n  steps: 1\n")
    write_rows(Path("rows.jsonl"), 20)
    assert attune("train", "rows.jsonl", "--config", "c.yaml", "--model", str(base)).code == 0
    assert_reconciles(0)


def spoil_weights(content: bytes) -> Callable[[Path], None]:
    """Return what puts something else in the place of a model's weights."""

    def write(model: Path) -> None:
        (model / "model.safetensors").write_bytes(content)

    return write


def cut_weights(model: Path) -> None:
    """Leave half of the weights, as a broken download does."""
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit_config(**changes: Any) -> Callable[[Path], None]:
    """Return what changes a model's config."""

    def edit(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **changes}))

    return edit


def write_index(text: str) -> Callable[[Path], None]:
    """Return what writes an index of weights."""

    def write(model: Path) -> None:
        (model / "model.safetensors.index.json").write_text(text)

    return write


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 124\n"
OWN_CODE = edit_config(model_type="absent", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(
            spoil_weights(LFS), "is a Git LFS pointer (128 bytes), not weights: git lfs pull", id="33-pointer"
        ),
        pytest.param(spoil_weights(b"<!DOCTYPE html>\n"), "is a web page, not weights. Download", id="33-page"),
        pytest.param(spoil_weights(b"\x20" + bytes(7) + b"{" + b"\xff" * 90), "header cannot be read", id="33-noise"),
        pytest.param(cut_weights, "is cut off or damaged", id="33-cut"),
        pytest.param(
            lambda model: (model / "model.safetensors").rename(model / "pytorch_model.bin"),
            "only pickle weights (pytorch_model.bin); they can run code. Convert them to safetensors",
            id="34",
        ),
        pytest.param(
            write_index('{"weight_map": {"a": "../../x"}}'),
            'names a file outside the model folder ("../../x"): refused',
            id="35-outside",
        ),
        pytest.param(write_index("{"), "is damaged: it maps no weights to files", id="35-index"),
        pytest.param(OWN_CODE, "asks to run Python code of its own (auto_map in config.json): refused", id="35-code"),
        pytest.param(edit_config(n_layer=3), "12 tensors that config.json asks for are not in the weights", id="half"),
        pytest.param(edit_config(n_embd=64), "the weights have other shapes than config.json says", id="shapes"),
        pytest.param(edit_config(vocab_size=200), "but the model has 200 tokens", id="vocabulary"),
    ],
)
def test_bad_models(attune: Callable[..., Ended], base: Path, spoil: Callable[[Path], Any], said: str) -> None:
    """What is no safe and whole model is refused, with what to do, and no run is left behind."""
    model = Path(shutil.copytree(base, "model"))
    spoil(model)
    write_rows(Path("rows.jsonl"), 20)
    assert_refused(attune("train", "rows.jsonl", "--model", "model"), MODEL, said)


@pytest.mark.parametrize(
    ("out", "code", "said"),
    [
        ("used", REFUSED, "used holds a run (step 1 of 1, done); it is never overwritten."),
        ("rows.jsonl", REFUSED, "rows.jsonl is a file, and a run needs a folder. Choose another --out."),
        ("rows.jsonl/a", REFUSED, "rows.jsonl/a cannot be written to"),
        ("../../x", USAGE, "Write it in full if it is meant: --out "),
        ("runs/" + "x" * 300, USAGE, "use letters, digits, . _ - (at most 80"),
        ("runs/a\0b", USAGE, "use letters, digits, . _ -"),
        ("runs/CON", USAGE, '"CON" cannot name a run'),
        ("runs/\x1b[31mred", USAGE, r'"\x1b[31mred" cannot name a run'),
    ],
)
def test_bad_run_folders(attune: Callable[..., Ended], base: Path, out: str, code: int, said: str) -> None:
    """A place or name that cannot hold a new run is refused, and what stands there stays as it is."""
    write_rows(Path("rows.jsonl"), 20)
    words = ("train", "rows.jsonl", "--model", str(base), "--train.steps=1", "--out")
    assert attune(*words, "used").code == 0
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert_refused(attune(*words, out), code, said)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_a_disk_that_is_full(base: Path) -> None:
    """A write that the system refuses ends the run with 6; what stands on disk can be gone on with."""
    import resource

    write_rows(Path("rows.jsonl"), 20)
    words = ["train", "rows.jsonl", "--model", str(base), "--train.steps=2", "--out", "a"]
    ended = subprocess.run(
        [sys.executable, "-m", "attune", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        check=False,
    )
    assert ended.returncode == 6, ended.stderr
    assert_short(Ended(ended.returncode, "", ended.stderr))
    assert "Free space there. Then go on: attune resume a" in ended.stderr
    assert in_a_process("resume", "a").code == 0


@pytest.mark.parametrize(("number", "code"), [(4, DATA), (32, MODEL)])
def test_in_a_process_of_its_own(base: Path, number: int, code: int) -> None:
    """The exit code reaches the shell, and nothing else is printed on the way out."""
    case, words = spoilt_words(number, 0, base)
    ended = in_a_process("train", *words)
    assert_refused(ended, code, *case.expect_text)
    assert ended.out == ""
    document = json.loads(in_a_process("train", *words, "--json").out)
    assert document == {"error": ended.err.rstrip("\n"), "exit_code": code}

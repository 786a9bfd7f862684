"""Config files and command-line words: what is read, which one wins, and how every fault is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.config import Config, SourceConfig
from attune.config_file import dump_yaml, json_schema, load_config, make_config, parse_arguments, train_source
from attune.config_words import describe_kind, nearest_setting, setting_fields
from attune.errors import ConfigError


def fault(path: Path | None, *words: str, flags: dict[str, Any] | None = None) -> str:
    """Return the message of a config that must be refused, without its folder."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, words, flags)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 6
    return str(caught.value).replace(f"{path.parent}/" if path else "\0", "")


def written(folder: Path, text: str, name: str = "config.yaml") -> Path:
    """Write a config file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_command_line_wins_over_file_over_default(tmp_path: Path) -> None:
    """A flag or word beats the file, the file beats the default, and the last word beats an earlier one."""
    path = written(tmp_path, "seed: 1\nmodel: m\ntrain:\n  steps: 5\n  clip: 2\n")
    config = load_config(path, ["--train.steps", "6", "train.steps=7"], {"seed": 9})
    assert (config.seed, config.model, config.train.steps, config.train.clip) == (9, "m", 7, 2.0)
    assert config.train.batch_rows == Config().train.batch_rows


@pytest.mark.parametrize(
    "words",
    [
        ["--train.learning_rate", "1e-4"],
        ["--train.learning_rate=1e-4"],
        ["train.learning_rate=1e-4"],
        ["train.learning_rate=.0001"],
    ],
)
def test_three_spellings_of_an_override(words: list[str]) -> None:
    """All documented spellings set the same number."""
    assert load_config(None, words).train.learning_rate == 1e-4


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-4 for text; here it is a number, and 1e3 a whole one where that is wanted."""
    config = load_config(written(tmp_path, "train:\n  learning_rate: 1e-4\n  steps: 1e3\n  weight_decay: 1E-2\n"))
    assert (config.train.learning_rate, config.train.steps, config.train.weight_decay) == (1e-4, 1000, 1e-2)


def test_words_of_yaml_stay_text_where_text_is_wanted(tmp_path: Path) -> None:
    """A model called no, a run called 2024 and a column called on are names, not booleans or numbers."""
    path = written(tmp_path, "model: no\nout: 2024\ntrust_remote_code: yes\ndata:\n  columns: {prompt: on}\n")
    config = load_config(path)
    assert (config.model, config.out, config.trust_remote_code) == ("no", "2024", True)
    assert config.data.columns == {"prompt": "on"}


def test_columns_from_every_side(tmp_path: Path) -> None:
    """Column names come from the file, single words and Python groups, and are joined."""
    path = written(tmp_path, 'data.columns.system = "sys"\ndata.mask = "last"\n', "c.toml")
    config = load_config(path, ["data.columns.prompt=question"], {"data": {"columns": {"completion": "answer"}}})
    assert config.data.columns == {"system": "sys", "prompt": "question", "completion": "answer"}
    assert config.data.mask == "last"


def test_empty_group_means_defaults(tmp_path: Path) -> None:
    """A group whose lines are all commented out is no fault; neither is an empty file."""
    assert load_config(written(tmp_path, "train:\n  # steps: 3\nmodel: m\n")).model == "m"
    assert load_config(written(tmp_path, "")) == Config()


def test_bare_switch() -> None:
    """A true-or-false setting needs no value, and does not swallow the word behind it."""
    positionals, given = parse_arguments(["--trust_remote_code", "rows.jsonl", "--trust_remote_code", "false"])
    assert positionals == ["rows.jsonl"]
    assert [setting.value.text for setting in given] == ["true", "false"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  learning_rat: 1\n", 'config.yaml:2:3 unknown key "learning_rat" - did you mean "learning_rate"?'),
        ("learning_rate: 1\n", 'config.yaml:1:1 unknown key "learning_rate" - did you mean "train.learning_rate"?'),
        ("train: {lr: 1}\n", 'config.yaml:1:9 unknown key "lr" - did you mean "learning_rate"?'),
        ("zzz: 1\n", 'config.yaml:1:1 unknown key "zzz" - the top has: model, out, seed'),
        (
            "train:\n  steps: fast\n",
            'config.yaml:2:3 train.steps must be a whole number above 0, or auto, found "fast"',
        ),
        ("train:\n  epochs: 0\n", "config.yaml:2:3 train.epochs must be a number above 0, found 0"),
        ("train:\n  batch_rows: 0\n", "train.batch_rows must be a whole number above 0, found 0"),
        ("train:\n  learning_rate: -1\n", "train.learning_rate must be a number above 0, or auto, found -1"),
        ("train:\n  learning_rate: nan\n", 'train.learning_rate must be a number above 0, or auto, found "nan"'),
        ("train:\n  learning_rate: .inf\n", 'found ".inf"'),
        ('train:\n  learning_rate: "1e-4"\n', 'found "1e-4" as text - take the quotes off'),
        ("data:\n  valid_share: 2\n", "data.valid_share must be a number from 0 to 1, found 2"),
        ("data:\n  mask: complete\n", 'must be completion, assistant, last or all, found "complete" - did you mean'),
        ("train: 8\n", "config.yaml:1:1 train must be a group of settings (steps, epochs"),
        ("train:\n  steps: {a: 1}\n", "or auto, found a group of settings"),
        ("model: [a, b]\n", "config.yaml:1:1 model must be text, found a list"),
        ("model:\n", 'config.yaml:1:1 "model" is empty - give a value or take the line out'),
        ("seed: 1\nmodel: m\nseed: 2\n", '"seed" is already set at config.yaml:1:1. Keep one.'),
        ("a: &x 1\nb: *x\n", "config.yaml:1:4 anchors and aliases (&x) are not allowed"),
        ("model: !!python/object:os.system x\n", "config.yaml:1:8 tags (!!python/object:os.system) are not allowed"),
        ("model:\n\tx: 1\n", "config.yaml:2:1 is not YAML: while scanning for the next token"),
        ("model: 'a\n", "config.yaml:2:1 is not YAML:"),
        ("- a\n- b\n", "config.yaml:1:1 a config file holds keys and values"),
        ("? [a]\n: 1\n", "config.yaml:1:3 a key must be a name."),
        ("model: a\n---\nmodel: b\n", "holds more than one YAML document"),
        ("x: " + "[" * 5000, "is nested deeper than 16 levels"),
        ("model: a\x07b\n", "config.yaml is not YAML: unacceptable character #x0007"),
    ],
)
def test_faults_of_a_yaml_file(tmp_path: Path, text: str, said: str) -> None:
    """Each fault names file, line and column, the key, and what would be right."""
    assert said in fault(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1\nseed = 2\n", " is not TOML: Cannot overwrite a value"),
        ("model = \n", "c.toml:1:9 is not TOML: Invalid value"),
        ("[train]\n\nlearning_rat = 1\n", 'c.toml:3:1 unknown key "learning_rat" - did you mean "learning_rate"?'),
        ("[train]\n  steps = 5.5\n", "c.toml:2:3 train.steps must be a whole number above 0, or auto, found 5.5"),
        ("data = {columns = {prompt = 3}}\n", "c.toml:1:1 data.columns.prompt must be text, found 3"),
        (
            'model = """\nseed = "x"\n"""\nseed = true\n',
            "c.toml:4:1 seed must be a whole number of 0",
        ),
        ("train.steps = 0\n", "c.toml:1:1 train.steps must be a whole number above 0, or auto, found 0"),
        ("x = " + "[" * 5000, "c.toml"),
    ],
)
def test_faults_of_a_toml_file(tmp_path: Path, text: str, said: str) -> None:
    """TOML is told as precisely as YAML."""
    assert said in fault(written(tmp_path, text, "c.toml"))


def test_all_faults_of_a_file_come_at_once(tmp_path: Path) -> None:
    """Faults stand in the order of the file; what does not fit in six lines is counted."""
    keys = "\n".join(f"  wrong{n}: 1" for n in range(9))
    lines = fault(written(tmp_path, f"sed: 1\ntrain:\n{keys}\n")).splitlines()
    assert lines[0] == 'config.yaml:1:1 unknown key "sed" - did you mean "seed"?'
    assert [line.split(" ")[0] for line in lines[1:5]] == [f"config.yaml:{n}:3" for n in (3, 4, 5, 6)]
    assert lines[5] == "and 5 more faults like these"


def test_a_check_across_settings_stands_where_one_was_given(tmp_path: Path) -> None:
    """A conflict of two settings names both and the place of one."""
    said = fault(written(tmp_path, "train:\n  batch_tokens: 10\ndata:\n  max_length: 50\n"))
    assert said.startswith("config.yaml:2:3 train.batch_tokens (10) is smaller than data.max_length (50)")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train.learning_rat", "1"], "unknown option --train.learning_rat - did you mean --train.learning_rate?"),
        (["--learning-rate", "1"], "unknown option --learning-rate - did you mean --train.learning_rate?"),
        (["--train.learn", "1"], "unknown option --train.learn"),
        (["--modle", "x"], "unknown option --modle - did you mean --model?"),
        (["train.stepz=3"], 'command line: unknown key "train.stepz" - did you mean "train.steps"?'),
        (["--train.steps", "x"], 'command line: --train.steps must be a whole number above 0, or auto, found "x"'),
        (["--train.steps"], "--train.steps wants a value: a whole number above 0, or auto"),
        (["--train", "3"], "command line: train must be a group of settings"),
        (["more"], 'command line: unexpected "more"'),
        (["-x"], 'unknown option "-x"; options and settings begin with --'),
    ],
)
def test_faults_of_the_command_line(words: list[str], said: str) -> None:
    """A misspelt option is never taken for an abbreviation, and the nearest one is named."""
    assert fault(None, *words).startswith(said)


def test_faults_of_python_settings() -> None:
    """Groups and dotted names from Python are checked like a file."""
    assert 'settings: unknown key "train.stesp" - did you mean "train.steps"?' in fault(None, flags={"train.stesp": 3})
    assert "settings: train must be a group of settings" in fault(None, flags={"train": 3})
    assert "settings: train.steps must be" in fault(None, flags={"train": {"steps": 5.0}})
    assert "found an object of type set" in fault(None, flags={"model": {1}})
    assert load_config(None, (), {"model": Path("a/b")}).model == "a/b"


def test_files_that_are_no_config(tmp_path: Path) -> None:
    """A missing, huge, binary or unreadable file is told in one line with what to do."""
    written(tmp_path, "seed: 1\n", "run.yaml")
    assert f"Did you mean {tmp_path}/run.yaml?" in fault(tmp_path / "rum.yaml").replace(
        "run.yaml", f"{tmp_path}/run.yaml"
    )
    big = written(tmp_path, "x" * 1_100_000, "big.yaml")
    assert "too large for a config file. Is it data?" in fault(big)
    (tmp_path / "latin.yaml").write_bytes("model: a\nout: é\n".encode("latin-1"))
    assert fault(tmp_path / "latin.yaml").startswith("latin.yaml:2 byte 0xE9 is not UTF-8")
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in fault(tmp_path / "folder.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfseed: 4\r\nmodel: m\r\n")
    assert load_config(tmp_path / "bom.yaml").seed == 4


def test_what_a_target_is() -> None:
    """A name ending in .yaml, .yml or .toml is a config; anything else is data; two configs are refused."""
    assert train_source("a.yaml", None) == ("a.yaml", {})
    assert train_source("a.jsonl", "b.toml") == ("b.toml", {"data.train": "a.jsonl"})
    assert train_source(None, "b.toml") == ("b.toml", {})
    with pytest.raises(ConfigError, match=r"two config files are given: a\.yml and b\.toml"):
        train_source("a.yml", "b.toml")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(model=TEXTS, prompt=TEXTS, rate=st.floats(1e-12, 1e3), seed=st.integers(0, 2**63), steps=st.integers(1, 10**9))
def test_dumped_config_reads_back(
    tmp_path_factory: pytest.TempPathFactory, model: str, prompt: str, rate: float, seed: int, steps: int
) -> None:
    """What is written reads back the same: by this reader, and by any other YAML reader with the same types."""
    columns = {"data.columns": {"prompt": prompt}}
    config = Config().with_values(
        {"model": model, "train.learning_rate": rate, "seed": seed, "train.steps": steps, **columns}
    )
    path = tmp_path_factory.mktemp("dump") / "c.yaml"
    path.write_text(text := dump_yaml(config, {"train.steps": "so many\nrows"}), encoding="utf-8")
    assert load_config(path) == config
    assert yaml.safe_load(text) == config.model_dump()
    assert f"steps: {steps}  # so many rows" in text


def test_nearest_setting_is_found_wherever_it_stands() -> None:
    """Misspelt, misplaced, dashed and foreign names lead to ours; nonsense leads nowhere."""
    found = {
        name: nearest_setting(name) for name in ("train.stesp", "data.mask_", "steps", "max-length", "lora_r", "qqq")
    }
    assert list(found.values()) == ["train.steps", "data.mask", "train.steps", "data.max_length", "adapter.rank", ""]


def test_every_setting_can_be_described() -> None:
    """Each setting says what it takes and has a sentence that ends in a full stop."""
    for name, field in setting_fields().items():
        assert describe_kind(name), name
        assert str(field.description).endswith("."), name


def test_json_schema_knows_every_group() -> None:
    """Editors get the schema of the whole config."""
    assert set(json_schema()["properties"]) == set(Config.model_fields)


A_LIST = ["a.jsonl", SourceConfig(path="more", weight=0.5, name="mine"), SourceConfig(path="hub:o/n")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "data:\n  train: [a.jsonl, {path: more, weight: 0.5, name: mine}, {path: 'hub:o/n'}]\n"),
        (
            "c.yaml",
            "data:\n  train:\n  - a.jsonl\n  - path: more\n    weight: .5\n    name: mine\n  - path: hub:o/n\n",
        ),
        ("c.toml", '[data]\ntrain = ["a.jsonl", {path = "more", weight = 0.5, name = "mine"}, {path = "hub:o/n"}]\n'),
        (
            "c.json.yaml",
            '{"data": {"train": ["a.jsonl", {"path": "more", "weight": 5e-1, "name": "mine"}, {"path": "hub:o/n"}]}}',
        ),
    ],
)
def test_sources_are_a_list(tmp_path: Path, name: str, text: str) -> None:
    """Paths and {path, weight, name} stand in one list, in each way that YAML and TOML write one."""
    assert load_config(written(tmp_path, text, name)).data.train == A_LIST


def test_sources_from_python_and_back(tmp_path: Path) -> None:
    """A list in Python gives the same config, which is written and read back as it is, names like numbers too."""
    train = ["a.jsonl", {"path": "more", "weight": 0.5, "name": "mine"}, {"path": "hub:o/n"}]
    config = load_config(None, (), {"data.train": train})
    assert config.data.train == A_LIST
    for odd in (config, load_config(None, (), {"data.train": ["1", {"path": "no", "weight": 3.0, "name": "2024"}]})):
        assert load_config(written(tmp_path, dump_yaml(odd))) == odd
        assert make_config(odd) == odd


def test_names_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    """A folder called 2024 and a source called 7 are names, as they are outside of lists."""
    config = load_config(written(tmp_path, "data:\n  train: [2024, {path: 2025, weight: 2, name: 7}]\n"))
    assert config.data.train == ["2024", SourceConfig(path="2025", weight=2.0, name="7")]


@pytest.mark.parametrize("words", [["--data.allow", "D05,D08"], ["data.allow=D05, D08"], ["--data.allow=D05,,D08,"]])
def test_a_list_of_texts_on_the_command_line(words: list[str]) -> None:
    """Commas part the items; blanks and empty items do not count."""
    assert load_config(None, words).data.allow == ["D05", "D08"]


def test_a_list_of_fixed_words_is_written_with_commas_too(tmp_path: Path) -> None:
    """One or several, on the command line as in a file; a word that is none of them is told with those that are."""
    assert load_config(None, ["--log.to", "tensorboard"]).log.to == ["tensorboard"]
    assert load_config(None, ["log.to=wandb, mlflow"]).log.to == ["wandb", "mlflow"]
    path = tmp_path / "c.yaml"
    path.write_text("log:\n  to: [trackio, wandb]\n")
    assert load_config(path).log.to == ["trackio", "wandb"]
    with pytest.raises(ConfigError, match=r"--log\.to must be any of tensorboard, .* with commas between, found"):
        load_config(None, ["--log.to", "tensorbored"])


@pytest.mark.parametrize("text", ["allow: D05,D08", "allow: [D05, D08]", "allow:\n  - D05\n  - 'D08'"])
def test_a_list_of_texts_in_a_file(tmp_path: Path, text: str) -> None:
    """A file may write a list as one, or as on the command line; a word replaces it."""
    path = written(tmp_path, f"data:\n  {text}\n")
    assert load_config(path).data.allow == ["D05", "D08"]
    assert load_config(path, ["data.allow=secret"]).data.allow == ["secret"]


def test_one_path_holds_commas_as_they_are(tmp_path: Path) -> None:
    """data.train is a path or a list: text is never cut at its commas; several words on the command line are a list."""
    assert load_config(None, ["data.train=a,b.jsonl"]).data.train == "a,b.jsonl"
    assert load_config(written(tmp_path, "data:\n  train: a,b.jsonl\n")).data.train == "a,b.jsonl"
    assert train_source(["a.jsonl", "b.jsonl"], None) == (None, {"data.train": ["a.jsonl", "b.jsonl"]})
    with pytest.raises(ConfigError, match=r"a config file \(c\.yaml\) and other names are given"):
        train_source(["a.jsonl", "c.yaml"], None)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("{path: b, weight: 0}", "weight of source 2 must be a number above 0, found 0"),
        ("{path: b, weight: -.5}", "weight of source 2 must be a number above 0, found -0.5"),
        ("{path: b, weight: heavy}", 'weight of source 2 must be a number above 0, found "heavy"'),
        ('{path: b, weight: "2"}', 'weight of source 2 must be a number above 0, found "2"'),
        ("{path: b, wieght: 2}", 'source 2 has an unknown key "wieght" - did you mean "weight"?'),
        ("{path: b, zzz: 2}", 'source 2 has an unknown key "zzz" - a source has: path, weight, name'),
        ("{weight: 2}", "source 2 has no path"),
        ("[b, c]", "source 2 must be a path, or {path, weight, name}, found a list"),
    ],
)
def test_faults_of_a_source(tmp_path: Path, item: str, said: str) -> None:
    """What is wrong with one source of a list is told in one line, at the place of the list."""
    text = fault(written(tmp_path, f"model: m\ndata:\n  train: [a.jsonl, {item}]\n"))
    assert text == f"config.yaml:3:3 data.train: {said}"

"""Sets on the Hub, tried with local folders that are laid out like one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from attune.config import Config
from attune.data.reading.hub import HubName, hub_name, is_hub
from attune.data.reading.intake import Intake
from attune.data.reading.read import file_form, read_rows
from attune.errors import ConfigError, DataError
from attune.types import Example

CALL = {"function": {"name": "f", "arguments": {"b": "x"}}}
ROWS = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "user", "content": "r"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with two splits, and a cache of its own; no network is asked."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "test.jsonl").write_text(json.dumps(ROWS[0]))
    return f"hub:{folder}"


def test_names() -> None:
    """The split is train unless it is named; three parts name a configuration too."""
    assert hub_name("hub:owner/name") == HubName("owner/name", "", "train")
    assert hub_name("hub:owner/name:test") == HubName("owner/name", "", "test")
    assert hub_name("hub:openai/gsm8k:main:test") == HubName("openai/gsm8k", "main", "test")
    assert is_hub("hub:owner/name") and not is_hub("owner/name")
    with pytest.raises(ConfigError, match="hub:owner/name:split"):
        hub_name("hub:owner/name:")


def test_rows_are_read_as_from_a_file(hub: str) -> None:
    """The rows of a split come in order, numbered from 1, with no field that their file has not."""
    examples = [row for row in Intake(hub, Config().data).stream() if isinstance(row, Example)]
    assert [example.messages[0].content for example in examples] == ["q", "r"]
    assert examples[1].messages[1].tool_calls == (CALL,)
    assert [str(example.place) for example in examples] == [f"{hub}:1", f"{hub}:2"]
    assert len(list(read_rows(f"{hub}:test", max_row_bytes=1000))) == 1
    assert file_form(hub) == "Hub set"


def test_what_is_not_there_is_named(hub: str, tmp_path: Path) -> None:
    """An unknown split and an absent set are errors that say what there is, in a few lines."""
    with pytest.raises(DataError, match=r"train.*test") as caught:
        list(read_rows(f"{hub}:nope", max_row_bytes=1000))
    assert len(str(caught.value).splitlines()) <= 6
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(f"hub:{tmp_path / 'absent'}", max_row_bytes=1000))


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the Hub cannot be read, the message says what to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "attune-sft\[hub\]"'):
        list(read_rows("hub:owner/name", max_row_bytes=1000))

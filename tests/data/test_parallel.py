"""Files taken in by several processes: the same rows, findings and errors as by one, and nothing left behind."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attune.data import parallel
from attune.data.collect import Collection
from attune.data.coverage import sample
from attune.data.duplicates import words as duplicate_words
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.files import DataFile
from attune.data.lint import openers, pile_up, structure, tasks
from attune.data.parallel import Desk, Task, count_workers
from attune.data.prepare import prepare
from attune.data.prepared import Prepared
from attune.data.reading.read import cut_lines, read_part, read_rows
from attune.errors import UserError
from tests.data.bad_inputs import write_tokenizer
from tests.data.duplicates.rows import prose
from tests.data.sameness import kept_of, looked_at
from tests.data.sets import alike, chat, pair, pairs, settings_of, write_set

MB = 1 << 20


class InPlace:
    """A helper whose process is this one: what goes in and comes out is pickled all the same."""

    def __init__(self, order: bytes) -> None:
        self.desk = Desk(pickle.loads(order))

    def collect(self, task: Task) -> Collection:
        """Return a part taken in."""
        collection: Collection = pickle.loads(pickle.dumps(self.desk.collect(pickle.loads(pickle.dumps(task)))))
        return collection

    def stop(self) -> None:
        """There is no process to end."""


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into small parts, and need no other process to take them in."""
    monkeypatch.setattr(parallel, "Helper", InPlace)
    monkeypatch.setattr(parallel, "PART_BYTES", (700, 700))


def many_rows() -> list[Any]:
    """Return rows in which every rule that counts over rows has something to count."""
    rng = random.Random(4)
    rows: list[Any] = [*pairs(40), *alike(8), *pairs(9, seed=3) * 2]
    rows += [pair(f"List {at} as JSON.", f'{{"name": "{prose(rng, 1)}", "k{at % 7}": {at}}}') for at in range(40)]
    rows += [pair(f"List {at} as JSON.", "```json\n{}\n```") for at in range(3)]
    rows += [pair(f"Is {prose(rng, 3)} good?", rng.choice(("yes", "no", "maybe"))) for _ in range(60)]
    rows += [pair(f"Say {prose(rng, 2)}", f"Sure, here is {prose(rng, 9)}") for _ in range(30)]
    rows += [pair(f"Sure, here is what? {prose(rng, 2)}", f"Sure, here is {prose(rng, 9)}") for _ in range(9)]
    rows += [pair(f"Do {prose(rng, 2)}", "I'm sorry, but I cannot assist with that request at all.") for _ in range(12)]
    rows += [
        pair(f"Wie geht es dir heute mit {at} Leuten?", "The weather is nice and we are all well, " * 2)
        for at in range(5)
    ]
    rows += [pair(prose(rng, 5), "My key is AKIAQ7ZP3MK9XW2LB5RT, write to a@b.org") for _ in range(4)]
    rows += [pair(f"write {prose(rng, 4)}", f"{prose(rng, 60)} and then the") for _ in range(9)]
    rows += [pair("x", "y", weight=0.5, source="forum"), pair("x", "", source="book"), pair("none", "at all", weight=0)]
    rng.shuffle(rows)
    return rows


def prepared(train: Any, folder: Path, *, with_coverage: bool = True, **values: Any) -> Prepared:
    """Return rows prepared without a cache."""
    config = settings_of(train, **{"data.cache": "off", "data.valid_share": 0.1, **values})
    tokenizer = load_tokenizer(write_tokenizer(folder / "tokenizer"))
    return prepare(config, tokenizer, model_length=None, with_coverage=with_coverage)


def assert_same(train: Any, folder: Path, **values: Any) -> Prepared:
    """Assert that two processes and one come to the same; return it."""
    one = prepared(train, folder, **{**values, "data.workers": 1})
    two = prepared(train, folder, **{**values, "data.workers": 2})
    assert kept_of(one) == kept_of(two)
    assert looked_at(one) == looked_at(two)
    return two


@pytest.mark.parametrize("overlong", ["drop", "cut", "split"])
def test_same_as_one_process(tmp_path: Path, in_place: None, overlong: str) -> None:
    """Tokens, ledger, findings, preview, duplicates, coverage: all is as if one process had taken in the file."""
    train = [
        write_set(tmp_path / "a.jsonl", many_rows()),
        {"path": write_set(tmp_path / "b.jsonl", pairs(60)), "weight": 2.0},
    ]
    values: dict[str, Any] = {"data.overlong": overlong, "data.max_length": 150, "data.duplicates": "drop"}
    found = assert_same(train, tmp_path, **values)
    names = {finding.name for finding in found.findings}
    assert names > {"duplicate", "near-duplicate", "opener-concentration", "refusal", "language", "secret", "conflict"}


def test_validation_and_test_files(tmp_path: Path, in_place: None) -> None:
    """A validation file is taken in in parts, too, with its examples in order."""
    files = [write_set(tmp_path / f"{name}.jsonl", pairs(50, seed=at)) for at, name in enumerate("tvx")]
    found = assert_same(files[0], tmp_path, **{"data.valid": files[1], "data.test": files[2:]})
    assert [example.place.line for example in found.valid_examples] == [*range(1, 51)]


def test_counts_that_are_full(tmp_path: Path, in_place: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a count has a limit, the rows that come first fill it, in parts as in one."""
    for module, name, most in (
        (pile_up, "MOST_TAILS", 3),
        (structure, "HEADS", 5),
        (structure, "MOST_SHAPES", 3),
        (tasks, "MOST_WORDS", 60),
        (openers, "MOST_KNOWN", 8),
        (openers, "FEWEST_ROWS", 2),
        (sample, "KEPT_CHARACTERS", 30),
        (duplicate_words, "FLUSH_CHARACTERS", 500),
    ):
        monkeypatch.setattr(module, name, most)
    assert_same(write_set(tmp_path / "a.jsonl", many_rows()), tmp_path)


def test_a_part_that_is_lost_is_noticed(tmp_path: Path, in_place: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts joined in another order are other rows: the comparison of these tests sees it."""
    train = write_set(tmp_path / "a.jsonl", many_rows())
    collect = parallel.Crew.collect
    monkeypatch.setattr(parallel.Crew, "collect", lambda crew, tasks: collect(crew, tasks)[::-1])
    with pytest.raises(AssertionError):
        assert_same(train, tmp_path)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"prompt": "a", "reply": "b"},
        {"prompt": 1, "completion": "b"},
        {"messages": [{"role": "user", "content": "only asked"}]},
    ],
    ids=["layout", "type", "messages"],
)
def test_errors_are_those_of_one_process(tmp_path: Path, in_place: None, spoilt: dict[str, Any]) -> None:
    """A row that cannot be used is told in the same words, wherever it stands."""
    for at in (3, 70):
        rows = pairs(80)
        rows[at:at] = [spoilt, spoilt]
        train, said = write_set(tmp_path / "a.jsonl", rows), []
        for workers in (1, 2):
            with pytest.raises(UserError) as caught:
                prepared(train, tmp_path, with_coverage=False, **{"data.workers": workers})
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]
        assert_same(train, tmp_path, **{"data.skip_bad_rows": 2})


def test_an_error_in_a_part_is_met_again(tmp_path: Path, in_place: None) -> None:
    """What a template refuses in a part is refused as by one process, with its place."""
    rows = [*pairs(60), chat(("user", "q", {}), ("assistant", "a", {"tool_calls": [{"name": "f"}]}))]
    rows = [chat(("user", row["prompt"], {}), ("assistant", row["completion"], {})) for row in rows[:-1]] + rows[-1:]
    train, said = write_set(tmp_path / "a.jsonl", rows), []
    for workers in (1, 2):
        with pytest.raises(UserError, match="tool_calls") as caught:
            prepared(train, tmp_path, with_coverage=False, **{"data.workers": workers})
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_real_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own come to the same, have done some of the work, and are gone afterwards."""
    monkeypatch.setattr(parallel, "PART_BYTES", (2000, 2000))
    started: list[parallel.Helper] = []
    begin = parallel.Helper.__init__

    def starts(helper: parallel.Helper, order: bytes) -> None:
        begin(helper, order)
        started.append(helper)

    monkeypatch.setattr(parallel.Helper, "__init__", starts)
    done: list[Task] = []
    collect = parallel.Helper.collect

    def noted(helper: parallel.Helper, task: Task) -> Collection:
        collection = collect(helper, task)
        done.append(task)
        return collection

    monkeypatch.setattr(parallel.Helper, "collect", noted)
    monkeypatch.setattr(Desk, "collect", waits_for(done, Desk.collect))
    assert_same(write_set(tmp_path / "a.jsonl", many_rows()), tmp_path)
    assert done
    assert [helper._process.poll() is not None for helper in started] == [True]


def waits_for(done: list[Task], collect: Any) -> Any:
    """Return a desk's way to take in a part that lets the other process have one first."""

    def waits(desk: Desk, task: Task) -> Collection:
        until = time.monotonic() + 60
        while not done and time.monotonic() < until:
            time.sleep(0.01)
        collection: Collection = collect(desk, task)
        return collection

    return waits


def test_a_process_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a process is killed, the one that is left does all of the work."""
    monkeypatch.setattr(parallel, "PART_BYTES", (2000, 2000))
    monkeypatch.setattr(parallel, "START", "raise SystemExit(3)  # {path}")
    assert_same(write_set(tmp_path / "a.jsonl", many_rows()), tmp_path)


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C, which the terminal sends to all processes, ends them with one KeyboardInterrupt and no other word."""
    train = write_set(tmp_path / "a.jsonl", many_rows() * 40)
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from attune.config import Config\n"
        "from attune.data import parallel\n"
        "from attune.data.encoding.tokenizer import load_tokenizer\n"
        "from attune.data.prepare import prepare\n"
        "parallel.PART_BYTES = (5000, 5000)\n"
        "parallel.Desk.collect = lambda *_: (print('working', flush=True), time.sleep(60))\n"
        f"config = Config().with_values({{'data.train': {train!r}, 'data.workers': 3, 'data.cache': 'off'}})\n"
        f"prepare(config, load_tokenizer(Path({str(write_tokenizer(tmp_path / 't'))!r})), model_length=None)\n"
    )
    run = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"working\n"
    time.sleep(1.0)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert said.count(b"Traceback") == 1
    assert said.rstrip().endswith(b"KeyboardInterrupt")
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


def test_scripts_need_no_main_guard(tmp_path: Path) -> None:
    """A user's script that calls attune at its top level is not run a second time by the processes."""
    script = tmp_path / "script.py"
    train = write_set(tmp_path / "a.jsonl", pairs(100))
    (tmp_path / "numpy.py").write_text("raise RuntimeError('a file beside the script was taken for a module')")
    script.write_text(
        "print('once', flush=True)\n"
        "import sys\n"
        "sys.path.pop(0)\n"
        "from pathlib import Path\n"
        "from attune.config import Config\n"
        "from attune.data import parallel\n"
        "from attune.data.encoding.tokenizer import load_tokenizer\n"
        "from attune.data.prepare import prepare\n"
        "parallel.PART_BYTES = (2000, 2000)\n"
        f"config = Config().with_values({{'data.train': {train!r}, 'data.workers': 2, 'data.cache': 'off'}})\n"
        f"tokenizer = load_tokenizer(Path({str(write_tokenizer(tmp_path / 't'))!r}))\n"
        "print(prepare(config, tokenizer, model_length=None).ledger.rows)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, cwd=tmp_path, env=env, timeout=120, check=True
    )
    assert run.stdout.split() == [b"once", b"100"]
    assert run.stderr == b""


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("end", ["\n", "", "\r\n\n"])
def test_parts_are_the_file(tmp_path: Path, size: int, end: str) -> None:
    """The rows of all parts are those of the whole file: lines, offsets, blank lines, a byte order mark."""
    path = tmp_path / "a.jsonl"
    text = (
        '\ufeff{"prompt": "a"}\n\n{"prompt": "b"}\r\n  \n{"broken"\n'
        + '{"prompt": "c"}\n' * 9
        + '{"prompt": "d"}'
        + end
    )
    path.write_bytes(text.encode())
    whole = list(read_rows(path, max_row_bytes=MB))
    parts = cut_lines(path, size)
    assert [row for part in parts for row in read_part(path, part, max_row_bytes=MB)] == whole
    assert len(parts) > 1 or size == 10_000


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files stay in one process, large ones use the processors that there are, and a wish is a wish."""
    monkeypatch.setattr(parallel, "count_processors", lambda: 8)
    assert [count_workers("auto", size * MB) for size in (1, 11, 13, 30, 1000)] == [1, 1, 2, 5, 8]
    monkeypatch.setattr(parallel, "count_processors", lambda: 64)
    assert count_workers("auto", 10_000 * MB) == parallel.MOST_WORKERS
    assert [count_workers(wish, 1) for wish in (1, 5)] == [1, 5]
    monkeypatch.setattr(sys, "executable", "")
    assert count_workers(5, 1) == 1


def test_files_that_are_not_cut(tmp_path: Path, in_place: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files, packed ones and those that are not lines of JSON are one process's work."""
    cuts: list[int] = []
    cut = parallel.Crew.cut

    def noted(crew: parallel.Crew, file: DataFile, **wishes: Any) -> list[Task]:
        tasks = cut(crew, file, **wishes)
        cuts.append(len(tasks))
        return tasks

    monkeypatch.setattr(parallel.Crew, "cut", noted)
    small = write_set(tmp_path / "small.jsonl", pairs(20)[:9])
    large = write_set(tmp_path / "large.jsonl", pairs(200))
    lines = Path(large).read_bytes()
    packed, array = tmp_path / "large.jsonl.gz", tmp_path / "large.json"
    packed.write_bytes(gzip.compress(lines, 1))
    array.write_bytes(b"[" + b",".join(lines.splitlines()) + b"]")
    assert Path(small).stat().st_size < 2 * parallel.PART_BYTES[0]
    for path, rows in ((small, 9), (large, 200), (str(packed), 200), (str(array), 200)):
        assert rows == 9 or Path(path).stat().st_size > 2 * parallel.PART_BYTES[0]
        found = prepared(path, tmp_path, with_coverage=False, **{"data.workers": 2, "data.valid_share": 0.0})
        assert found.ledger.rows == rows
    assert cuts[1] > 1
    assert [cuts[0], *cuts[2:]] == [0, 0, 0]

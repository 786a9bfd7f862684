"""The largest micro-batch and some usual steps of a training, really computed, in a process of its own."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from attune import errors
from attune.config import Config
from attune.data.corpus import Corpus, Places
from attune.errors import ResourceError, UserError
from attune.types import Place, StepRecord

if TYPE_CHECKING:
    from attune.model.divergence import TopK
    from attune.train.replay import Replay
    from attune.train.session import Session
    from attune.types import Batch

Rows = NDArray[np.int64]
STDERR = 2  # the file; sys.stderr may be something else
TINY_RATE = 1e-30  # a learning rate that leaves the model as it is, so that every step is like the first


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be computed: steps of rows of a corpus, the first `worst` for the peak, the last `timed` for time.

    Beside each are texts that are replayed, None for none: `worst_texts` in the first ones, later those of the step.
    """

    corpus: Corpus
    steps: tuple[Rows, ...]
    worst: int
    timed: int
    replay: Replay | None = None
    worst_texts: Rows | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen: the peak of memory in bytes (None: there was not enough), and per second of the timed steps."""

    peak: int | None
    tokens_per_s: float | None
    flos_per_s: float | None


NOT_ENOUGH = Measured(None, None, None)


def measure(trial: Trial, config: Config, base: Path) -> Measured:
    """Return what a child process saw; its peak is its own, whatever this process holds.

    Raises: the UserError that stopped the child. Running out of memory is a result.
    """
    with tempfile.TemporaryDirectory(prefix="attune-plan-") as folder:
        _write(trial, config, base, Path(folder))
        words = [sys.executable, "-m", "attune.train.measure", folder]
        ended = subprocess.run(words, check=False, stdout=STDERR, stdin=subprocess.DEVNULL)  # noqa: S603 - our own
        result = Path(folder) / "measured.json"
        if not result.is_file():
            if ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):  # what the system does when memory is out
                return NOT_ENOUGH
            raise ResourceError(
                f"the measured step ended without a result (exit code {ended.returncode}; its messages stand above).\n"
                "Leave it out with --no-measure."
            )
        document = json.loads(result.read_text(encoding="utf-8"))
    if "error" in document:
        raise getattr(errors, document["kind"])(document["error"])
    return Measured(**document)


def free_bytes(device: str) -> int:
    """Return the memory that a training could take now: of the card, or of this machine within its limits."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    free = _available()
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    used = [Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")]
    for limit, usage in zip(limits, used, strict=True):
        most, now = _number(limit), _number(usage)
        if most is not None and now is not None:
            free = min(free, max(most - now, 0))
    return free


def _available() -> int:
    """Return what the system can give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(kilobytes)
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or the word max
        return None


def _write(trial: Trial, config: Config, base: Path, folder: Path) -> None:
    """Hand a trial over in plain files: a config, and the rows that are needed."""
    needed, places = np.unique(np.concatenate(trial.steps), return_inverse=True)
    numbers = np.split(places, np.cumsum([len(step) for step in trial.steps])[:-1])
    chosen = np.zeros(trial.corpus.num_rows, dtype=bool)
    chosen[needed] = True
    _write_rows(trial.corpus.keep(chosen), folder / "rows.npz")
    replay = None
    if trial.replay is not None and trial.worst_texts is not None:
        _write_rows(trial.replay.corpus, folder / "texts.npz")
        given = {name: getattr(trial.replay, name) for name in ("tokens", "weight", "kl", "seed")}
        replay = given | {"worst": trial.worst_texts.tolist()}
    task = {
        "config": config.model_dump(),
        "base": str(base.resolve()),
        "steps": [step.tolist() for step in numbers],
        "worst": trial.worst,
        "timed": trial.timed,
        "replay": replay,
    }
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")


def _write_rows(corpus: Corpus, file: Path) -> None:
    arrays: dict[str, Any] = {"tokens": corpus.tokens, "learned": corpus.learned, "offsets": corpus.offsets}
    if corpus.weights is not None:
        arrays["weights"] = corpus.weights
    np.savez(file, **arrays)


def _read_rows(file: Path) -> Corpus:
    with np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    count = len(found["offsets"]) - 1
    places = Places.of([Place("measured", row + 1, 0) for row in range(count)])
    return Corpus(
        found["tokens"], found["learned"], found["offsets"], places, ("",) * count, weights=found.get("weights")
    )


@dataclass(frozen=True, slots=True)
class _Given:
    """As much of a preparation as a session looks at."""

    train: Corpus
    valid: None = None


@dataclass(frozen=True, slots=True)
class _FixedSteps:
    """A stream whose first steps are given; all later ones are the last of them. `begin` hears of each."""

    steps: Sequence[Rows]
    begin: Callable[[int], None]

    def rows(self, step: int) -> Rows:
        """Return the rows of a step, counted from 1."""
        self.begin(step)
        return self.steps[min(step, len(self.steps)) - 1]

    def epoch(self, step: int) -> float:
        """Return how far the steps are."""
        return step / len(self.steps)


@dataclass(frozen=True, slots=True)
class _FixedReplay:
    """Replay whose texts in the first `count` steps are given; later ones are those of the step that is usual then."""

    usual: Replay
    worst: Rows
    count: int
    notes: tuple[str, ...] = ()

    @property
    def weight(self) -> float:
        """Return the weight of the mean loss."""
        return self.usual.weight

    @property
    def kl(self) -> float:
        """Return the weight of the mean divergence."""
        return self.usual.kl

    def batches(self, step: int, micro_tokens: int) -> tuple[tuple[Batch, TopK | None], ...]:
        """Return the texts of a step in batches, as Replay does."""
        rows = self.worst if step <= self.count else self.usual.rows(step - self.count)
        return self.usual.batches_of(rows, micro_tokens)


def _open_replay(folder: Path, task: dict[str, Any], session: Session) -> Replay | None:
    """Return the replay of a trial; what stands for the base's predictions is made up, and of their size."""
    import torch

    from attune.evals.heldout import predicted_tokens
    from attune.model.divergence import KEPT, TopK
    from attune.train.replay import Replay

    given = task["replay"]
    if given is None:
        return None
    corpus = _read_rows(folder / "texts.npz")
    base = None
    if given["kl"] > 0:
        number, kept = len(predicted_tokens(corpus)), min(KEPT, session.vocabulary)
        dtype = torch.float64 if session.config.precision == "float64" else torch.float32
        ids = torch.arange(kept, dtype=torch.int32).expand(number, kept).contiguous()
        base = TopK(ids, torch.full((number, kept), -math.log(2 * kept), dtype=dtype))
    texts = Replay(corpus, base, given["tokens"], given["weight"], given["kl"], given["seed"])
    return cast(Replay, _FixedReplay(texts, np.asarray(given["worst"], dtype=np.int64), task["worst"]))


def compute(folder: Path) -> Measured:
    """Run a trial that was written into a folder, as training would. For the child process only."""
    import torch

    from attune.data.prepare import Prepared
    from attune.data.stream import Stream
    from attune.train.session import Session
    from attune.train.trace import imagine_model
    from attune.world import open_world

    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    steps = [np.asarray(step, dtype=np.int64) for step in task["steps"]]
    config = Config.model_validate(task["config"])
    # no fewer steps than the run has: what pays only in a long run is then done here, too
    number = max(len(steps), int(config.train.steps))
    config = config.with_values({"train.steps": number, "train.learning_rate": TINY_RATE, "train.warmup": 0.0})
    world = open_world(str(config.device))
    corpus = _read_rows(folder / "rows.npz")
    imagine_model(Path(task["base"]), config)  # whatever it imports is memory of the program, not of the training
    before = _peak_bytes(config.device)
    session = Session(config, cast(Prepared, _Given(corpus)), base=Path(task["base"]), world=world)
    session.take_replay(_open_replay(folder, task, session))
    shares, records = session.shares, []

    def begin(step: int) -> None:
        """The largest micro-batch is one whose rows share nothing."""
        session.shares = shares and step > task["worst"]

    session.stream = cast(Stream, _FixedSteps(steps, begin))
    try:
        with closing(cast("Generator[StepRecord]", session.train())) as training:
            for record in islice(training, len(steps)):
                if session.room.micro_tokens < int(config.train.micro_tokens):  # memory ran out, and training went on
                    return NOT_ENOUGH
                records.append(record)
    except (torch.OutOfMemoryError, MemoryError, ResourceError):
        return NOT_ENOUGH
    peak = _peak_bytes(config.device) - before
    timed, earlier = records[-task["timed"] :], records[-task["timed"] - 1]
    seconds = max(sum(record.tokens / record.tokens_per_s for record in timed), 1e-9)
    tokens, flos = sum(record.tokens for record in timed), timed[-1].train_flos - earlier.train_flos
    return Measured(peak, tokens / seconds, flos / seconds)


def _peak_bytes(device: str) -> int:
    """Return the most memory held so far: allocated on the card, or by this process."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        # a child's ru_maxrss begins with its parent's on Linux; this one is of this program alone
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def main(folder: Path) -> None:
    """Compute a trial and leave what was seen, or the user's fault that stopped it, beside it."""
    document: dict[str, Any]
    warnings.simplefilter("ignore", FutureWarning)  # libraries telling each other about their next versions
    try:
        document = asdict(compute(folder))
    except UserError as error:
        document = {"error": str(error), "kind": type(error).__name__}
    (folder / "measured.json").write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

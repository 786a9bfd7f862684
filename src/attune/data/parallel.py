"""Large files in several processes: each takes in parts of a file, and the parts are joined in file order.

The processes are new ones (nothing is forked beside running threads) that import no more than they need, and not the
user's own script. What goes wrong in a part is found out again, and said, by one process that takes in the whole file.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread

from attune.config import Config
from attune.data.collect import Collection
from attune.data.encoding.by_word import WordEncoder, open_words
from attune.data.encoding.mask import Masker
from attune.data.encoding.template import ChatTemplate
from attune.data.encoding.tokenizer import Tokenizer
from attune.data.files import DataFile
from attune.data.lint.rows import RowOptions
from attune.data.processors import count_processors
from attune.data.reading.hub import is_hub
from attune.data.reading.intake import Intake
from attune.data.reading.read import LINES, Part, cut_lines
from attune.data.reading.schema import Layout
from attune.data.reading.schema_file import open_answer_schema
from attune.data.survey import Survey
from attune.errors import UserError

WORKER_BYTES = 6 * 1024 * 1024  # of a file, for each process under "auto": a process takes half a second to start
MOST_WORKERS = 16
PARTS_PER_WORKER = 8  # so that no process waits long for another one
PART_BYTES = (256 * 1024, 8 * 1024 * 1024)  # least and most
# a process of ours: it finds modules where this one does, and leaves Ctrl-C to this one
START = """
import sys
sys.path[:] = {path!r}
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from attune.data.parallel import serve
serve()
"""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Order:
    """What a process needs to know to take in parts of files: settings, template and tokenizer."""

    config: Config
    tokenizer: Tokenizer
    template: tuple[str, str, str, bool]  # name, source, reason, whether it compiles
    by_word: bool
    limit: int
    with_coverage: bool

    @classmethod
    def of(cls, config: Config, template: ChatTemplate, *, by_word: bool, limit: int, with_coverage: bool) -> Order:
        """Return the order for a template."""
        opened = (template.name, template.source, template.reason, template.compiles)
        return cls(config, template.tokenizer, opened, by_word, limit, with_coverage)


@dataclass(frozen=True)
class Task:
    """A part of a file of lines to be taken in; `layout` is that of the whole file."""

    file: DataFile
    part: Part
    layout: Layout
    draw_seed: int | None
    keeps_examples: bool


class Desk:
    """Takes in parts of files, one after another, as an order says."""

    def __init__(self, order: Order, template: ChatTemplate | None = None, words: WordEncoder | None = None) -> None:
        """`template`, `words`: where they are open already."""
        self.order = order
        name, source, reason, compiles = order.template
        if template is None:
            template = ChatTemplate(name, source, order.tokenizer, reason)
            template.compiles = compiles
            words = open_words(order.tokenizer.backend) if order.by_word else None
        self.masker = Masker(template, order.config.data.mask, words)
        self.options = RowOptions(special_tokens=tuple(order.tokenizer.special_tokens))
        self.schema = open_answer_schema(order.config.data.answer_schema)

    def collect(self, task: Task) -> Collection:
        """Return a part of a file as a collection of its own, to be absorbed by that of the file."""
        order, data = self.order, self.order.config.data
        intake = Intake(task.file.path, data, task.file.source, form=LINES, layout=task.layout)
        survey = Survey(self.options, self.schema, with_coverage=order.with_coverage, is_part=True)
        collection = Collection(
            intake, self.masker.another(), survey, part=task.file.part, limit=order.limit, policy=data.overlong
        )
        collection.run_part(task.part, draw_seed=task.draw_seed, keeps_examples=task.keeps_examples)
        return collection


class Helper:
    """A process that takes in parts."""

    def __init__(self, order: bytes) -> None:
        """`order`: as bytes, since the tokenizer is in use while a process starts."""
        self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
            [sys.executable, "-c", START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
        )
        self._order = order

    def collect(self, task: Task) -> Collection:
        """Return a part taken in by the process. Raises: RuntimeError, OSError or EOFError when it could not."""
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None, "the process was started with pipes"
        assert answers is not None, "the process was started with pipes"
        pipe.write(self._order)
        self._order = b""
        pickle.dump(task, pipe)
        pipe.flush()
        answer = pickle.load(answers)  # noqa: S301 - written by our own process
        if not isinstance(answer, Collection):
            raise RuntimeError(answer)  # noqa: TRY004 - it says what went wrong
        return answer

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def serve() -> None:
    """Take in parts until there are no more: what a helper's process does."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what anything prints here shall not stand among the answers
        desk = Desk(pickle.load(sys.stdin.buffer))  # noqa: S301 - written by our own process
        while True:
            try:
                task = pickle.load(sys.stdin.buffer)  # noqa: S301
            except EOFError:
                return
            try:
                answer: Collection | str = desk.collect(task)
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()


def count_workers(wished: int | str, size: int) -> int:
    """Return how many processes take in a file of `size` bytes, at most."""
    if not sys.executable:  # embedded: there is no interpreter to start
        return 1
    if isinstance(wished, int):
        return wished
    return max(1, min(count_processors(), MOST_WORKERS, size // WORKER_BYTES))


class Crew:
    """This process and its helpers, who are started when they are first needed."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._helpers: list[Helper] = []
        self._running = ExitStack()

    def cut(self, file: DataFile, *, draw_seed: int | None, keeps_examples: bool) -> list[Task]:
        """Return a file cut into tasks; none where one process takes it in: small, packed, or not a file of lines."""
        config = self.desk.order.config.data
        size = 0 if is_hub(file.path) else Path(file.path).stat().st_size
        workers = count_workers(config.workers, size)
        if workers < 2 or size < 2 * PART_BYTES[0]:
            return []
        intake = Intake(file.path, config, file.source)
        try:
            intake.look_ahead()
        except UserError:  # it is said by the one process
            return []
        if intake.form != LINES or intake.layout is None:
            return []
        parts = cut_lines(file.path, max(PART_BYTES[0], min(PART_BYTES[1], size // (workers * PARTS_PER_WORKER))))
        return [Task(file, part, intake.layout, draw_seed, keeps_examples) for part in parts]

    def collect(self, tasks: Sequence[Task]) -> list[Collection]:
        """Return all parts of a file taken in, in their order; none if something went wrong in one of them."""
        wished = self.desk.order.config.data.workers
        workers = count_workers(wished, tasks[-1].part.end) if tasks else 1
        while len(self._helpers) < min(workers, len(tasks)) - 1:
            helper = Helper(pickle.dumps(self.desk.order))
            self._running.callback(helper.stop)
            self._helpers.append(helper)
        left, lock, failed = iter(range(len(tasks))), Lock(), Event()
        done: dict[int, Collection] = {}

        def work(collect: Callable[[Task], Collection]) -> None:
            while not failed.is_set():
                with lock:
                    at = next(left, None)
                if at is None:
                    return
                try:
                    done[at] = collect(tasks[at])
                except Exception:  # whatever it is, one process will meet it again and say it
                    failed.set()

        threads = [Thread(target=partial(work, helper.collect), daemon=True) for helper in self._helpers[: workers - 1]]
        for thread in threads:
            thread.start()
        work(self.desk.collect)
        for thread in threads:
            thread.join()
        return [] if failed.is_set() else [done[at] for at in range(len(tasks))]

    def close(self) -> None:
        """End all helpers."""
        self._running.close()
        self._helpers.clear()


@contextmanager
def open_crew(desk: Desk) -> Iterator[Crew]:
    """Give a crew, and end its helpers afterwards, whatever happens."""
    crew = Crew(desk)
    try:
        yield crew
    finally:
        crew.close()

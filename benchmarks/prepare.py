"""How fast a file becomes what is trained on: read, checked, rendered, encoded, masked, proved and laid flat.

Beside it the same from the cache, and the tokenizer alone: its own batch encoding of the same rendered texts.
Run: python benchmarks/prepare.py DATA.jsonl TOKENIZER_FOLDER [TEMPLATE] [WORKERS]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attune.config import Config
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import Prepared, prepare, read_examples


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds of all threads and of all processes that ended meanwhile, and the result."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = work()
    return time.perf_counter() - wall, _cpu_seconds() - cpu, result


def _cpu_seconds() -> float:
    used = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed_prepare(name: str, config: Config, folder: str) -> tuple[float, float]:
    """Print how long a preparation takes, the opening of the tokenizer not counted; return wall and CPU seconds."""
    tokenizer = load_tokenizer(Path(folder))
    wall, cpu, prepared = timed(partial(prepare, config, tokenizer, model_length=None))
    assert isinstance(prepared, Prepared), "a preparation gives prepared rows"
    rows = prepared.ledger.rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name:18s}  {wall:6.2f} s  {cpu:6.2f} CPU-s  {rows / wall:8.0f} rows/s  peak {peak:.2f} GB", flush=True)
    return wall, cpu


def main(data: str, folder: str, template: str = "auto", workers: str = "auto") -> None:
    """Print rows per second and the ratio to the tokenizer's own batch encoding."""
    processes = int(workers) if workers != "auto" else workers
    config = Config().with_values({"data.train": data, "data.template": template, "data.workers": processes})
    wall, cpu = timed_prepare("prepare", config.with_values({"data.cache": "off"}), folder)
    with tempfile.TemporaryDirectory() as cache:
        kept = config.with_values({"data.cache": cache})
        timed_prepare("prepare and keep", kept, folder)
        timed_prepare("from the cache", kept, folder)
    tokenizer = load_tokenizer(Path(folder))
    opened = open_template(template, tokenizer)
    texts = [opened.render(example).text for example in read_examples(data, config.data)]
    for name in ("encode_batch", "encode_batch_fast"):
        own_wall, own_cpu, _ = timed(partial(getattr(tokenizer.backend, name), texts, add_special_tokens=False))
        ratio = f"ratio {wall / own_wall:.2f} (CPU {cpu / own_cpu:.2f})"
        print(f"{name:18s}  {own_wall:6.2f} s  {own_cpu:6.2f} CPU-s  {ratio}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:5])

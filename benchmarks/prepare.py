"""How fast a file becomes tensors: read, understood, rendered, encoded, masked, proved and laid flat.

Beside it the tokenizer alone: its own batch encoding of the same rendered texts, in the same process.
Run: python benchmarks/prepare.py DATA.jsonl TOKENIZER_FOLDER [TEMPLATE]
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attune.config import Config
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import prepare, read_examples


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds of all threads, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main(data: str, folder: str, template: str = "auto") -> None:
    """Print rows per second and the ratio to the tokenizer's own batch encoding."""
    tokenizer = load_tokenizer(Path(folder))
    config = Config().with_values({"data.train": data, "data.template": template})
    wall, cpu, prepared = timed(partial(prepare, config, tokenizer, model_length=None))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rows = prepared.ledger.rows
    print(f"prepare             {wall:6.2f} s  {cpu:6.2f} CPU-s  {rows / wall:8.0f} rows/s  peak {peak:.2f} GB")
    del prepared
    opened = open_template(template, tokenizer)
    texts = [opened.render(example).text for example in read_examples(data, config.data)]
    for name in ("encode_batch", "encode_batch_fast"):
        own_wall, own_cpu, _ = timed(partial(getattr(tokenizer.backend, name), texts, add_special_tokens=False))
        ratio = f"ratio {wall / own_wall:.2f} (CPU {cpu / own_cpu:.2f})"
        print(f"{name:18s}  {own_wall:6.2f} s  {own_cpu:6.2f} CPU-s  {ratio}")


if __name__ == "__main__":
    main(*sys.argv[1:4])

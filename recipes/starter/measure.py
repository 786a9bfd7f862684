"""Measures a base model: bits per byte on WikiText-2 and held-out articles, BLiMP beside a random twin, samples.

python recipes/starter/measure.py --model src/attune/bundled/starter --shared ../shared/data \
        --heldout work/starter/heldout.jsonl --out work/starter/measured.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from attune.data.corpus import to_corpus
from attune.data.encoding.tokenizer import Tokenizer, load_tokenizer
from attune.evals.heldout import measure
from attune.model.generate import generate
from attune.model.load import load_model
from attune.types import Encoded, Place

PROMPTS = (
    "The city of Prague",
    "In physics, energy is",
    "She opened the door and",
    "The first World Cup was held in",
    '"I do not know," said the old man,',
)
ARTICLE = re.compile(r"^ = [^=\n]+ = $", re.MULTILINE)


class Scorer:
    """A model, its tokenizer and where it computes: what every measurement below needs."""

    def __init__(self, folder: Path, *, device: str) -> None:
        self.device = device
        self.precision = "mixed" if device == "cuda" else "float32"
        self.model: PreTrainedModel = load_model(folder, device=device, precision=self.precision, attention="auto")
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        self.context = int(self.model.config.max_position_embeddings)

    def row_losses(self, rows: Sequence[Encoded]) -> np.ndarray:
        """Return the summed loss of each row in nats, float64 [rows]; every row needs a learned token."""
        micro_tokens = 65536 if self.device == "cuda" else 4096
        found = measure(
            self.model, to_corpus(rows), micro_tokens=micro_tokens, device=self.device, precision=self.precision
        )
        counts = np.array([int(row.learned.sum()) for row in rows])
        return np.asarray(found.row_loss) * counts


def windows(ids: Sequence[int], context: int) -> list[Encoded]:
    """Cut a document into overlapping windows that score every token after the first exactly once.

    A window is `context` tokens long and moves on by three quarters of it, so that a scored token sees at least a
    quarter of the context before it (less only at the document's start).
    """
    tokens = np.asarray(ids, dtype=np.int32)
    cut: list[Encoded] = []
    scored = 1
    for start in range(0, max(len(tokens) - 1, 0), context * 3 // 4):
        end = min(start + context, len(tokens))
        learned = np.zeros(end - start, dtype=bool)
        learned[scored - start :] = True
        cut.append(Encoded(Place("document", 1, start), tokens[start:end], learned))
        scored = end
        if end == len(tokens):
            break
    return cut


def bits_per_byte(scorer: Scorer, texts: Sequence[str]) -> dict[str, float | int]:
    """Return bits per UTF-8 byte over all texts, with the bytes and tokens it was measured on.

    Every byte counts. A text's first token has nothing before it: it is charged log2(vocabulary) bits.
    """
    documents = scorer.tokenizer.backend.encode_batch(list(texts), add_special_tokens=False)
    rows = [row for document in documents for row in windows(document.ids, scorer.context)]
    nats = float(scorer.row_losses(rows).sum()) + len(texts) * math.log(scorer.tokenizer.vocab_size)
    size = sum(len(text.encode()) for text in texts)
    return {"bits_per_byte": nats / math.log(2) / size, "bytes": size, "tokens": sum(len(d.ids) for d in documents)}


def without_article(text: str, title: str) -> str:
    """Return WikiText without one article: from its heading to the next article's."""
    found = re.search(rf"^ = {re.escape(title)} = $", text, re.MULTILINE)
    if found is None:
        return text
    following = ARTICLE.search(text, found.end())
    return text[: found.start()] + (text[following.start() :] if following else "")


def read_wikitext(file: Path) -> str:
    """Return the raw file with plain newlines and without the article "Nero"; it is not detokenised."""
    return without_article(file.read_text(encoding="utf-8"), "Nero")  # reading turns the file's CR LF into LF


def blimp(scorer: Scorer, file: Path, *, rows_each: int) -> dict[str, Any]:
    """Return BLiMP accuracy: the share of pairs whose good sentence has the higher probability, as mean over paradigms.

    `rows_each` pairs of each paradigm are taken, from its start. A sentence is scored after a line break, so that its
    first token counts too. Source: Warstadt et al. 2020, arXiv 1912.00582.
    """
    pairs: dict[str, list[tuple[str, str]]] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            pairs.setdefault(row["uid"], []).append((row["good"], row["bad"]))
    chosen = [(name, pair) for name, found in pairs.items() for pair in found[:rows_each]]
    sentences = ["\n" + sentence for _, pair in chosen for sentence in pair]
    rows = []
    for encoding in scorer.tokenizer.backend.encode_batch(sentences, add_special_tokens=False):
        tokens = np.array(encoding.ids, dtype=np.int32)
        rows.append(Encoded(Place(file.name, 1, 0), tokens, np.arange(len(tokens)) > 0))
    nats = scorer.row_losses(rows).reshape(-1, 2)
    right: dict[str, list[bool]] = {}
    for (name, _), (good, bad) in zip(chosen, nats, strict=True):
        right.setdefault(name, []).append(bool(good < bad))
    by_paradigm = {name: float(np.mean(values)) for name, values in sorted(right.items())}
    return {"accuracy": float(np.mean(list(by_paradigm.values()))), "pairs": len(chosen), "by_paradigm": by_paradigm}


def random_twin(folder: Path, out: Path, *, seed: int) -> None:
    """Write a model of the same config and tokenizer with random weights into `out`."""
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((folder / name).read_bytes())


def samples(scorer: Scorer, prompts: Sequence[str], *, length: int) -> list[dict[str, str]]:
    """Return what the model makes of each prompt: most likely tokens, and drawn at temperature 0.8 (top 0.95)."""
    ids = [scorer.tokenizer.encode(prompt) for prompt in prompts]
    stops = scorer.tokenizer.stop_ids
    greedy = generate(scorer.model, ids, stop_ids=stops, max_new_tokens=length)
    drawn = generate(scorer.model, ids, stop_ids=stops, max_new_tokens=length, temperature=0.8, top_p=0.95, seed=1)
    decode = scorer.tokenizer.decode
    return [
        {"prompt": prompt, "greedy": decode(first.tokens), "drawn": decode(second.tokens)}
        for prompt, first, second in zip(prompts, greedy, drawn, strict=True)
    ]


def measure_all(folder: Path, shared: Path, *, heldout: Path | None, device: str, rows_each: int) -> dict[str, Any]:
    """Return every measurement of the model in `folder`, as the model card quotes them."""
    scorer = Scorer(folder, device=device)
    found: dict[str, Any] = {"context": scorer.context, "device": device, "precision": scorer.precision}
    found["wikitext2"] = bits_per_byte(scorer, [read_wikitext(shared / "text" / "wikitext2_test_raw.txt")])
    if heldout is not None:
        with heldout.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for source in sorted({row["source"] for row in rows}):
            found[f"heldout_{source}"] = bits_per_byte(scorer, [row["text"] for row in rows if row["source"] == source])
    blimp_file = shared / "eval" / "blimp_67k.jsonl"
    found["blimp"] = blimp(scorer, blimp_file, rows_each=rows_each)
    with tempfile.TemporaryDirectory() as twin:
        random_twin(folder, Path(twin), seed=0)
        found["blimp_random_twin"] = blimp(Scorer(Path(twin), device=device), blimp_file, rows_each=rows_each)
    found["samples"] = samples(scorer, PROMPTS, length=60)
    return found


def main() -> None:
    """Read the command line, measure, write the JSON document and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--shared", type=Path, required=True, help="folder with text/ and eval/")
    parser.add_argument("--heldout", type=Path, help="heldout.jsonl of prepare.py")
    parser.add_argument("--out", type=Path, help="file for the JSON document")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--blimp-rows", type=int, default=1000, help="pairs of each paradigm; all of them by default")
    a = parser.parse_args()
    start = time.perf_counter()
    found = measure_all(a.model, a.shared, heldout=a.heldout, device=a.device, rows_each=a.blimp_rows)
    found["seconds"] = round(time.perf_counter() - start, 1)
    if a.out:
        a.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for sample in found["samples"]:
        print(f"{sample['prompt']} >> {sample['drawn']!r}")
    for name, figures in found.items():
        if isinstance(figures, dict):
            print(name, {key: value for key, value in figures.items() if key != "by_paradigm"})
    print(f"{found['seconds']} s")


if __name__ == "__main__":
    main()

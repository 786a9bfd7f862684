"""attune's side of gpu.py: one case, described by a JSON file, through the same parts that a run is made of.

Only the beginning differs from `attune train`: the model is random and made on the device, not read from a folder.
Prints one JSON object on the last line of stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from attune.config import Config
from attune.data.batch import step_batches
from attune.data.corpus import Corpus, Places
from attune.model.attention import choose_attention, set_attention
from attune.model.load import DTYPES, attention_choice
from attune.model.loss import LossOptions
from attune.model.nf4 import quantise_linears
from attune.train.feed import Step
from attune.train.loop import train_steps
from attune.train.metrics import Meter
from attune.train.optim import build_optimizer
from attune.train.ready import make_ready
from attune.train.session import shares_prefixes
from attune.types import Place
from attune.world import World
from benchmarks.gpu_cases import CASES, LORA, TINY, Case, Rows, Sizes, make_rows, model_shape
from benchmarks.gpu_watch import Watch, multiply_flops

RATES = {"full": 1e-5, "lora": 1e-4, "qlora": 1e-4}


def settings_of(case: Case, sizes: Sizes, job: dict[str, Any]) -> Config:
    """Return the config of a case: what it says itself, then what the command line says."""
    kind = case.adapter
    values = {
        "device": job["device"],
        "precision": "bfloat16" if job["device"] == "cuda" else "float32",
        "seed": job["seed"],
        "adapter.kind": kind,
        "adapter.rank": LORA["rank"],
        "adapter.alpha": float(LORA["alpha"]),
        "train.steps": job["steps"] + job["profiled"],
        "train.micro_tokens": sizes.step_tokens,
        "train.learning_rate": RATES[kind],
        "train.checkpointing": "none",
    }
    return Config().with_values(values | dict(case.settings) | job["set"])


def build_model(case: Case, config: Config, *, tiny: bool) -> PreTrainedModel:
    """Return a random model on the device, as `attune.model.load.load_model` returns one from a folder."""
    torch.manual_seed(config.seed)
    shape = LlamaConfig(**model_shape(case, tiny=tiny))
    dtype = DTYPES[config.precision]
    with torch.device(config.device):
        model = AutoModelForCausalLM.from_config(shape, dtype=dtype)
    choice = choose_attention(
        config.attention, device=config.device, dtype=dtype, model_class=type(model), config=model.config
    )
    set_attention(model, choice)
    model.attention_choice = choice
    if config.adapter.kind == "qlora":
        quantise_linears(model, device=config.device)
    return model.eval()


def corpus_of(rows: Rows) -> Corpus:
    """Return the rows as a preparation returns them."""
    number = len(rows.offsets) - 1
    places = Places.of([Place("random", row + 1, 0) for row in range(number)])
    return Corpus(rows.tokens, rows.learned, rows.offsets, places, ("",) * number)


def steps_of(rows: Rows, config: Config, *, share: bool) -> Iterator[Step]:
    """Yield each step's rows as micro-batches."""
    corpus, micro_tokens = corpus_of(rows), int(config.train.micro_tokens)
    for number, chosen in enumerate(rows.steps, 1):
        lay_out = partial(step_batches, corpus, chosen, share=share)
        yield Step(number, 0.0, lay_out(micro_tokens), relay=lay_out, micro_tokens=micro_tokens)


def _launched(watch: Watch, _: int) -> bool:
    """Note that a step's work has been launched, and let the next one follow, as it does in a run."""
    watch.step_done()
    return True


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Train the steps of a case and return what was seen."""
    case, sizes = CASES[job["case"]], TINY if job["tiny"] else Sizes()
    world = World(device=torch.device(job["device"]))
    config = settings_of(case, sizes, job)
    vocabulary = model_shape(case, tiny=job["tiny"])["vocab_size"]
    rows = make_rows(case, sizes, steps=int(config.train.steps), vocabulary=vocabulary, seed=job["seed"])
    loaded = build_model(case, config, tiny=job["tiny"])
    watch = Watch(world.device, steps=job["steps"], profiled=job["profiled"])
    attention = attention_choice(loaded)
    ready = make_ready(loaded, config, base="random")
    ready.model.train()
    share = shares_prefixes(ready.model, config, attention=attention.name)
    training = train_steps(
        ready.model,
        build_optimizer(ready.model, config.train, seed=config.seed),
        steps_of(rows, config, share=share),
        learning_rate=lambda _: float(config.train.learning_rate),
        meter=Meter(ready.flos, device=world.device),
        world=world,
        seed=config.seed,
        clip=config.train.clip,
        precision=config.precision,
        loss=LossOptions.of(config.train),
        runs_ahead=partial(_launched, watch),
    )
    records = list(training)
    timed = records[1 : job["steps"]]
    flos = [after.train_flos - before.train_flos for before, after in zip(records, timed, strict=False)]
    return watch.result() | {
        "tokens": [record.tokens for record in timed],
        "computed_tokens": [record.computed_tokens for record in timed],
        "learned_tokens": [record.learned_tokens for record in timed],
        "flos": flos,
        "losses": [record.loss for record in records],
        "how": [f"attention {attention.name} ({attention.reason})", *ready.notes],
        "settings": dict(case.settings) | job["set"],
    }


def main() -> None:
    """Run the measurement that the JSON file named on the command line describes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if job["kind"] == "multiply":
        size = 256 if job["tiny"] else 8192
        result = {"flops": multiply_flops(torch.device(job["device"]), size), "device": device_name(job["device"])}
    else:
        result = measure(job)
    print(json.dumps(result))


def device_name(device: str) -> str:
    """Return what the device calls itself."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


if __name__ == "__main__":
    main()

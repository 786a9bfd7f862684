"""The engine's settings as a user types them: what they change, what they leave alone, how they are refused."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import attune.train.plan as planning
from attune.cli.main import main
from tests.tiny import write_model_folder

pytestmark = pytest.mark.journey

DESK = "You keep the desk of a small harbour. Name the berth and its depth, and never promise a time."
QUICK = ("--train.steps", "4", "--train.batch_rows", "8", "--data.valid_rows", "4", "--train.learning_rate", "1e-3")
NO_CLIP = ("--train.clip", "1e6")
USAGE, MODEL, RESOURCE, REFUSED, STOPPED = 2, 4, 6, 7, 75


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@dataclass(frozen=True)
class Shell:
    """Types commands in one folder and reads what comes back."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def type(self, line: str, *words: str) -> Ended:
        """Run a command line in this process."""
        self.capture.readouterr()
        code = main([*shlex.split(line), *words])
        out, err = self.capture.readouterr()
        assert "Traceback" not in err
        return Ended(code, out, err)

    def train(self, out: str, *words: str) -> dict[str, Any]:
        """Train into a folder and return the result's metrics."""
        ended = self.type("train rows.jsonl --model base --json", *QUICK, *words, "--out", out)
        assert ended.code == 0, ended.err
        metrics = ended.document["metrics"]
        assert isinstance(metrics, dict)
        return metrics

    def manifest(self, out: str) -> dict[str, Any]:
        """What a run says that it was computed with."""
        manifest = json.loads((self.folder / out / "manifest.json").read_text())
        assert isinstance(manifest, dict)
        return manifest

    def lines(self, out: str, name: str) -> list[dict[str, Any]]:
        """The records of a run's file."""
        return [json.loads(line) for line in (self.folder / out / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows that share a system prompt, a tiny Llama and a GPT-2, which has no fused layers."""
    folder = tmp_path_factory.mktemp("harbour")
    rows = []
    for number in range(40):
        turns = [("system", DESK), ("user", f"Is berth {number} free?"), ("assistant", f"Berth {number}: {number} m.")]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_model_folder(folder / "base")  # for its tokenizer
    write_model_folder(folder / "gpt2")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():  # larger than the usual start: each layer must matter for its proof
        weight.data.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder / "base")
    return folder


@pytest.fixture
def shell(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A user in that folder."""
    monkeypatch.chdir(home)
    return Shell(home, capsys)


def test_a_shared_prompt_is_computed_once(shell: Shell) -> None:
    """Whatever data.share_prefixes says the run ends the same; the saving is told, recorded and in the manifest."""
    shared, asked = shell.train("s/auto"), shell.train("s/true", "--data.share_prefixes", "true")
    plain = shell.train("s/false", "--data.share_prefixes", "false")
    assert shared.pop("train_flos") < 0.7 * plain.pop("train_flos") and asked.pop("train_flos")
    assert shared == asked == pytest.approx(plain, rel=1e-5)
    steps = [record for record in shell.lines("s/auto", "metrics.jsonl") if "loss" in record]
    assert all(step["computed_tokens"] < 0.5 * step["tokens"] for step in steps)
    told = [event["message"] for event in shell.lines("s/auto", "events.jsonl") if event["kind"] == "note"]
    saved = 1 - steps[0]["computed_tokens"] / steps[0]["tokens"]
    assert f"shared beginnings save {saved:.0%} of the tokens of step 1" in told
    assert [shell.manifest(run)["shares_prefixes"] for run in ("s/auto", "s/false")] == [True, False]


SAME = [
    ("--train.kernels", "fused"),
    ("--train.kernels", "plain", "--train.checkpointing", "full", "--train.offload", "true"),
    ("--train.kernels", "fused", "--train.checkpointing", "1", "--train.micro_tokens", "300"),
    ("--train.gradient_release", "true", "--train.kernels", "fused", "--train.rounding", "stochastic"),
]


def test_how_a_step_is_computed_does_not_change_it(shell: Shell) -> None:
    """Kernels, layers computed again, offload, small micro-batches and released gradients end in the same losses."""
    usual = shell.train("k/usual", *NO_CLIP)
    assert shell.manifest("k/usual")["kernels"] == ["plain layers"]
    for number, words in enumerate(SAME):
        metrics = shell.train(f"k/{number}", *NO_CLIP, *words)
        names = set(metrics) - {"train_flos"}  # which counts what is computed
        assert {name: metrics[name] for name in names} == pytest.approx({n: usual[n] for n in names}, rel=1e-4), words
        kernels = " ".join(shell.manifest(f"k/{number}")["kernels"])
        assert ("fused layers: 2" in kernels) == ("fused" in words)
        assert ("computed again" in kernels) == ("--train.checkpointing" in words)
        assert shell.manifest(f"k/{number}")["resolved"].keys() >= {"device", "precision", "checkpoint.every"}


def test_a_stopped_qlora_run_goes_on_to_the_same_bits(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 4-bit weights, 8-bit moments and layers computed again; then it is measured, reported and talked to."""
    words = (
        *("--adapter.kind", "qlora", "--precision", "bfloat16", "--train.optimizer", "adamw_8bit"),
        *("--train.checkpointing", "1", "--train.kernels", "fused", "--train.steps", "30", "--valid.every", "30"),
    )
    straight = shell.train("q/straight", *words)
    run = shell.folder / "q/stopped"

    def stop() -> None:
        """Ask this process to end, as a cluster does, when some steps are done."""
        while not is_over.wait(0.002):
            if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text().count('"loss"') >= 3:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    is_over, watcher = threading.Event(), threading.Thread(target=stop)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # should it come when the run is over
    try:
        watcher.start()
        stopped = shell.type("train rows.jsonl --model base --out q/stopped", *QUICK, *words)
    finally:
        is_over.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)
    assert stopped.code == STOPPED and "Go on: attune resume q/stopped" in stopped.err
    resumed = shell.type("resume q/stopped --json")
    assert resumed.document["metrics"] == straight
    ends = [(shell.folder / name / "model" / "adapter_model.safetensors") for name in ("q/straight", "q/stopped")]
    assert ends[0].read_bytes() == ends[1].read_bytes()

    measured = shell.type("eval q/stopped --max-new-tokens 2 --json")
    assert measured.code == 0 and "in training and its validation it had 4 bits" in measured.err
    assert shell.type("report q/stopped").code == 0
    assert "fused layers: 2" in (run / "report.html").read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO("Is berth 3 free?\n"))
    assert shell.type("chat q/stopped --max-new-tokens 2").code == 0


WRONG = [
    ("--train.fp8 true", MODEL, "8-bit matrix units. Leave it off"),
    ("--attention flash4", MODEL, "Use --attention auto"),
    ("--attention varlen", MODEL, "Use --attention auto"),
    ("--model gpt2 --train.kernels fused", USAGE, "Use train.kernels auto"),
    ("--train.kernels fused --train.compile true", USAGE, "Leave out train.compile or train.kernels"),
    ("--adapter.kind qlora --train.fp8 true", USAGE, "adapter.kind lora in place of qlora"),
    ("--train.checkpointing 3", USAGE, "the model has 2 layers. Use full for all"),
    ("--train.offload true", USAGE, "Add train.checkpointing full"),
    ("--train.gradient_release true", USAGE, "--train.clip 1e+06"),
    ("--train.gradient_release true --train.clip 1e6 --train.micro_tokens 64", USAGE, "Set train.micro_tokens to auto"),
    ("--adapter.kind lora --adapter.dropout 0.1 --data.share_prefixes true", USAGE, "Set it to auto or false"),
    ("--train.beta2 1", USAGE, "a number from 0 to below 1"),
    ("--train.optimizer adam", USAGE, 'did you mean "adamw"'),
]


def test_wishes_that_cannot_be_met_leave_nothing_behind(shell: Shell) -> None:
    """Each is an error of at most six lines with the setting and the way out, before a run folder is there."""
    for line, code, way_out in WRONG:
        base = "" if "--model" in line else "--model base"
        ended = shell.type(f"train rows.jsonl {base} {line} --out wrong", *QUICK)
        assert (ended.code, way_out in ended.err) == (code, True), (line, ended.err)
        assert len(ended.err.splitlines()) <= 6
        assert not (shell.folder / "wrong").exists()


def test_a_plan_is_what_can_be_typed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that fits ends in the command that trains; one that does not exits with 6 and says what would fit."""
    words = ("--train.batch_rows", "32", "--train.steps", "2", "--adapter.kind", "lora")
    planned = shell.type("plan rows.jsonl --model base --no-measure", *words)
    assert planned.code == 0
    command = planned.out.splitlines()[-1].removeprefix("next      attune ")
    assert "--train.micro_tokens" in command and "--train.checkpointing none" in command
    assert shell.type(command, "--out", "p/typed").code == 0

    huge = ("--train.micro_tokens", "1000000", "--no-measure", "--json")
    needed = shell.type("plan rows.jsonl --model base", *words, *huge).document["memory_gb"]["total"]
    monkeypatch.setattr("attune.train.measure.free_bytes", lambda device: int(0.5e9 * needed))
    monkeypatch.setitem(planning.COMFORT, "cpu", 256)
    big = shell.type("plan rows.jsonl --model base", *words, *huge)
    assert (big.code, big.document["fits"]) == (RESOURCE, False)
    (change,) = big.document["instead"]
    settings = [word for name, value in change["config"].items() for word in (f"--{name}", str(value))]
    assert shell.type("plan rows.jsonl --model base", *words, *huge, *settings).code == 0
    assert shell.type("plan rows.jsonl --model base --train.fp8 true --no-measure").code == MODEL


def test_prepared_rows_are_kept_found_and_made_anew(shell: Shell) -> None:
    """The second run finds them, a damaged entry is noticed, and none of it changes the run."""
    words = ("--data.cache", "kept", "--data.workers", "2")
    dry_run = "train rows.jsonl --model base --dry-run"
    ends = [shell.train(f"c/{number}", *words) for number in range(2)]
    damaged = next((shell.folder / "kept").rglob("arrays.bin"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    dry = shell.type(dry_run, *QUICK, *words)
    assert dry.code == 0 and "damaged in the cache" in dry.err
    ends.append(shell.train("c/2", *words))
    ends.append(shell.train("c/off", "--data.cache", "off"))
    assert all(end == ends[0] for end in ends)
    assert "found in the cache" in shell.type(dry_run, *QUICK, *words).err
    assert "cache" not in shell.type(dry_run, *QUICK, "--data.cache", "off").err

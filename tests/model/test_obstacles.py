"""Which attention is chosen, and the trial that a young kernel must pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from attune.errors import ModelError
from attune.model import attention, flash, obstacles
from attune.model.attention import choose_attention
from attune.model.flash import Layout
from attune.model.obstacles import Heads, heads_of, trial
from tests.model.flat import plain_backward, plain_forward
from tests.tiny import CONFIGS, make_model

CPU = torch.device("cpu")


def choose(wish: str, **changes: Any) -> attention.AttentionChoice:
    """Return the choice for a tiny Llama on a device that seems to be CUDA."""
    options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16, "config": CONFIGS["llama"]}
    return choose_attention(wish, model_class=type(make_model()), **(options | changes))


def pretend(monkeypatch: pytest.MonkeyPatch, *, installed: bool, fault: str | None = None) -> None:
    """Make the device look new, FlashAttention-4 be installed or not, and its trial end as said."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(obstacles, "has_flash4", lambda: installed)
    monkeypatch.setattr(obstacles, "trial", lambda *_: fault)


def test_the_fastest_that_runs_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto takes flash4 where it is installed and right, else varlen and says why, else exact and says why."""
    pretend(monkeypatch, installed=True)
    assert choose("auto").name == "flash4"
    pretend(monkeypatch, installed=True, fault="flash4 failed a trial: its error is 0.5")
    assert choose("auto") == attention.AttentionChoice("varlen", "flash4 failed a trial: its error is 0.5")
    pretend(monkeypatch, installed=False)
    chosen = choose("auto")
    assert (chosen.name, "pip install" in chosen.reason) == ("varlen", True)
    assert choose("auto", config=CONFIGS["gemma2"]).name == "exact"
    assert choose("auto", dtype=torch.float32).reason.startswith("precision is float32")
    assert choose("exact").reason == "asked for"


@pytest.mark.parametrize("wish", ["varlen", "flash4"])
def test_a_wish_that_cannot_be_met_is_an_error(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that was asked for and cannot run stops the run with the reason and the next step."""
    pretend(monkeypatch, installed=True)
    with pytest.raises(ModelError, match=f"{wish} cannot run here: device is cpu"):
        choose(wish, device="cpu")
    with pytest.raises(ModelError, match="12 wide, the kernel needs a multiple of 8"):
        choose(wish, config=LlamaConfig(hidden_size=48, num_attention_heads=4))
    assert choose(wish).name == wish


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for flash4 without the package says how to get it."""
    pretend(monkeypatch, installed=False)
    with pytest.raises(ModelError, match=r'pip install "attune-sft\[flash\]"'):
        choose("flash4")
    with pytest.raises(ModelError, match="used up to 128"):
        choose("flash4", config=LlamaConfig(hidden_size=512, num_attention_heads=2))


def test_old_devices_keep_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before compute capability 9.0 FlashAttention-4 is not used."""
    pretend(monkeypatch, installed=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert choose("auto") == attention.AttentionChoice("varlen", "the device is older than compute capability 9.0")


def test_nothing_is_found_where_nothing_is_installed() -> None:
    """The search for FlashAttention-4 imports nothing that is not there."""
    assert obstacles.has_flash4() in (True, False)


def test_heads_are_read_from_any_config() -> None:
    """Width, grouping and window come from each family's own names."""
    assert heads_of(CONFIGS["llama"]) == Heads(8, 2, None)
    assert heads_of(CONFIGS["mistral"]) == Heads(8, 2, 5)
    assert heads_of(CONFIGS["gpt2"]) == Heads(8, 1, None)
    assert heads_of(object()) == Heads(0, 1, None)


def stand_in(monkeypatch: pytest.MonkeyPatch, forward: Any = plain_forward, backward: Any = plain_backward) -> None:
    """Put a kernel beside the real ones, as `made`."""
    trial.cache_clear()
    monkeypatch.setitem(flash.KERNELS, "made", (forward, backward))


@pytest.mark.parametrize("heads", [Heads(16, 2, None), Heads(8, 1, 60), Heads(8, 4, 4096)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_kernel_passes(heads: Heads, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention in plain torch passes the trial in both precisions, with windows and grouped heads."""
    stand_in(monkeypatch)
    assert trial("made", heads, dtype, CPU) is None


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """A kernel that is right but for its scale."""
    return plain_forward(q * 1.1, k, v, layout)


def not_finite(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A backward that leaves one value unwritten."""
    dq, dk, dv = plain_backward(*arguments)
    dv[-1, -1, -1] = torch.nan
    return dq, dk, dv


def lost_group(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A backward that forgets a tenth of one gradient."""
    dq, dk, dv = plain_backward(*arguments)
    return dq, dk * 0.9, dv


def not_there(*_: Any) -> tuple[Tensor, Tensor]:
    """A kernel that cannot be launched."""
    raise RuntimeError("no kernel image\nis available")


def test_wrong_kernels_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong scale, a lost part of a gradient, a value that is not finite and a crash are told apart from rounding."""
    heads = Heads(16, 2, None)
    for forward, backward, words in (
        (wrong_scale, plain_backward, "its error is"),
        (plain_forward, lost_group, "its error is 0.1"),
        (plain_forward, not_finite, "its error is nan"),
        (not_there, plain_backward, "RuntimeError: no kernel image is available"),
    ):
        stand_in(monkeypatch, forward, backward)
        assert words in str(trial("made", heads, torch.float32, CPU))

"""Letting a model answer: many prompts at once for measuring, or one token at a time for talking."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from attune.errors import ModelError
from attune.world import mix_seed

# Of 16 to 200 rows at once, 64 took the least time on two cores for a 10 M-parameter Llama: more only move more cache.
BATCH_ROWS = 64
BATCH_TOKENS = 65_536  # positions a batch may hold: the cache of an 8 B model with grouped keys then takes about 9 GB
UNBOUNDED = 2**31  # room for an answer where the model does not say how long its context is


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer as tokens, without its stop token. `finished`: the model stopped by itself, before the limit."""

    tokens: tuple[int, ...]
    finished: bool


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    batch_rows: int = BATCH_ROWS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    begun: Sequence[Sequence[int]] = (),
    on_rows: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Return an answer to every prompt, in their order; temperature 0 takes the most likely token (greedy).

    Rows of like length run together, padded on the left. Greedy answers are those of each prompt alone, but for
    ties within rounding; sampled ones depend on `seed` and `batch_rows`. Near the end of the model's context a row gets
    the tokens that are left. `begun`: with which tokens each answer is known to begin, so that only the rest is made.
    `on_rows` hears how many rows are done.
    Raises: ModelError when a prompt is empty or leaves no room for an answer.
    """
    room = [room_for_answer(model, prompt, f"prompt {number}") for number, prompt in enumerate(prompts, start=1)]
    known = [tuple(tokens[:max_new_tokens]) for tokens in begun] or [()] * len(prompts)
    answers = [_until_stop(list(tokens), frozenset(stop_ids)) for tokens in known]
    limits = [min(max_new_tokens, left) - len(tokens) for left, tokens in zip(room, known, strict=True)]
    open_rows = [row for row, answer in enumerate(answers) if not answer.finished and limits[row] > 0]
    inputs = {row: (*prompts[row], *known[row]) for row in open_rows}
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    ending = {
        "eos_token_id": list(stop_ids) or None,
        "pad_token_id": stop_ids[0] if stop_ids else 0,  # fills rows that ended before others; cut off below
    }
    done = len(prompts) - len(open_rows)
    with _answering(model) as core:
        may_pad = core.dtype != torch.float64 or _attention(core) != "eager"  # see _batches
        sizes = [len(inputs[row]) for row in open_rows]
        places = _Places(sizes, [limits[row] for row in open_rows], [room[row] - len(known[row]) for row in open_rows])
        for batch in _batches(places, batch_rows, may_pad=may_pad):
            rows = [open_rows[place] for place in batch]
            most = max(limits[row] for row in rows)
            settings = GenerationConfig(max_new_tokens=most, **ending, **(sampling if temperature else {}))
            ids, mask = _pad_left([inputs[row] for row in rows], core.device)
            with torch.random.fork_rng(devices=[core.device] if core.device.type == "cuda" else []):
                torch.manual_seed(mix_seed("generate", seed, rows[0]))
                made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)  # type: ignore[operator]
            for row, tokens in zip(rows, made[:, ids.shape[1] :].tolist(), strict=True):
                answers[row] = _until_stop([*known[row], *tokens[: limits[row]]], frozenset(stop_ids))
            done += len(rows)
            if on_rows is not None:
                on_rows(done)
    return answers


@torch.no_grad()
def stream(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Generator[int, None, None]:
    """Yield the tokens of one answer as they are made, up to its stop token or the limit.

    The model's attention is switched while the iterator is alive: finish or close it before using the model otherwise.
    Raises: ModelError when the prompt is empty or leaves no room for an answer.
    """
    limit = min(max_new_tokens, room_for_answer(model, prompt, "the prompt"))
    with _answering(model) as core:
        chance = torch.Generator(core.device).manual_seed(mix_seed("stream", seed))
        last_only = {"logits_to_keep": 1} if core._supports_logits_to_keep() else {}  # noqa: SLF001
        tokens, fed, cache = list(prompt), 0, None
        for _ in range(limit):
            ids = torch.tensor([tokens[fed:]], device=core.device)
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, **last_only)
            cache = getattr(out, "past_key_values", None)
            fed = len(tokens) if cache is not None else 0  # a model without this kind of cache reads all of it again
            token = _choose(out.logits[0, -1].float(), temperature, top_p, chance)
            if token in stop_ids:
                return
            tokens.append(token)
            yield token


def context_length(model: nn.Module) -> int | None:
    """Return how many positions the model can attend to, None where its config does not say."""
    length = getattr(_core(model).config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)


def vocabulary_of(model: nn.Module) -> int:
    """Return how many tokens the model knows; a tokenizer may have more."""
    return int(_core(model).get_input_embeddings().weight.shape[0])


def room_for_answer(model: nn.Module, prompt: Sequence[int], name: str) -> int:
    """Return how many tokens the model's context leaves for an answer to `prompt`, at least 1.

    Raises: ModelError, calling the prompt by `name`, when it is empty or fills the context.
    """
    if not prompt:
        raise ModelError(f"{name} has no tokens, so there is nothing to answer. Does the chat template render it?")
    context = context_length(model)
    if context is None:
        return UNBOUNDED
    if len(prompt) >= context:
        raise ModelError(
            f"{name} has {len(prompt):,} tokens, and the model's context holds {context:,}: no room to answer.\n"
            "Shorten the prompt, or choose a model with a longer context."
        )
    return context - len(prompt)


@contextmanager
def _answering(model: nn.Module) -> Iterator[Any]:
    """Make `model` ready to generate and hand out its transformers core; afterwards it is as it was.

    Flat-batch attention needs documents, which transformers' generation does not know. The model's own generation
    settings (penalties, sampling) would colour a comparison, so they are set aside.
    """
    core = _core(model)
    was_training, settings, attention = model.training, core.generation_config, _attention(core)
    model.eval()
    core.generation_config = GenerationConfig()
    switches = core._can_set_attn_implementation()  # noqa: SLF001
    if switches:
        core.set_attn_implementation("sdpa" if core._supports_sdpa else "eager")  # noqa: SLF001
    try:
        yield core
    finally:
        if switches:
            core.set_attn_implementation(attention)
        core.generation_config = settings
        model.train(was_training)


def _attention(core: Any) -> str:
    """Return the name of the attention in use; transformers has no public one."""
    return str(core.config._attn_implementation)  # noqa: SLF001


def _core(model: Any) -> Any:
    """Return the transformers model inside a PEFT wrapper, or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class _Places(NamedTuple):
    """Of each row: its tokens, how many are wanted of it, and how many its context has room for."""

    lengths: Sequence[int]
    limits: Sequence[int]
    rooms: Sequence[int]


def _batches(places: _Places, batch_rows: int, *, may_pad: bool = True) -> Iterator[list[int]]:
    """Yield rows to run together: of like limits, the shortest first, of which those that all have room for the most.

    Rows of equal limits come longest first. Without `may_pad` lengths are equal: transformers' written-out attention
    takes the softmax in float32, where the lowest float64 number that hides padding is minus infinity, and answers
    would be made of NaN.
    """
    lengths, limits, rooms = places
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (limits[row], -lengths[row])):
        longest = max(lengths[one] for one in (*batch, row))
        is_full = len(batch) >= batch_rows or (len(batch) + 1) * (longest + limits[row]) > BATCH_TOKENS
        has_room = all(rooms[one] >= limits[row] for one in batch)
        fits = has_room and (may_pad or all(lengths[one] == lengths[row] for one in batch))
        if batch and (is_full or not fits):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask [rows, longest]; padding is masked, so its id does not matter."""
    longest = max(len(prompt) for prompt in prompts)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _until_stop(tokens: list[int], stop_ids: frozenset[int]) -> Generated:
    """Return an answer up to its first stop token."""
    end = next((at for at, token in enumerate(tokens) if token in stop_ids), None)
    return Generated(tuple(tokens[:end]), end is not None)


def _choose(logits: Tensor, temperature: float, top_p: float, chance: torch.Generator) -> int:
    """Return the next token: the most likely one, or one drawn among the likeliest that together hold `top_p`."""
    if temperature == 0:
        return int(logits.argmax())
    shares, order = torch.softmax(logits / temperature, dim=-1).sort(descending=True)
    shares[shares.cumsum(-1) - shares >= top_p] = 0  # the first token always stays: nothing stands before it
    return int(order[torch.multinomial(shares, 1, generator=chance)])

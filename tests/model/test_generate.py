"""Batched generation gives what each prompt gives alone; streaming gives the same; the model is left as it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from attune.errors import ModelError
from attune.model.generate import _batches, _Places, generate, stream
from attune.model.load import load_model
from tests.tiny import CONFIGS, VOCABULARY, make_model

STOPS = (7, 11)


def make_prompts(number: int, longest: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> list[list[int]]:
    """Return random prompts of varying length."""
    source = random.Random(seed)
    return [[source.randrange(3, vocabulary) for _ in range(source.randint(1, longest))] for _ in range(number)]


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batched_equals_one_by_one(name: str, dtype: torch.dtype) -> None:
    """Left padding and batching change no greedy answer, for any family of models."""
    model = make_model(name, dtype=dtype)
    prompts = make_prompts(9, 20)
    free = [set(answer.tokens) for answer in generate(model, prompts, stop_ids=(), max_new_tokens=12)]
    stop = min(range(VOCABULARY), key=lambda token: abs(sum(token in answer for answer in free) - 4))  # ends about half
    together = generate(model, prompts, stop_ids=(stop,), max_new_tokens=12, batch_rows=4)
    alone = [generate(model, [prompt], stop_ids=(stop,), max_new_tokens=12)[0] for prompt in prompts]
    assert together == alone
    assert {answer.finished for answer in together} == {True, False}, "the case must hold answers of both kinds"


def test_greedy_is_the_most_likely_token() -> None:
    """The plainest loop, without cache or padding, gives the same tokens."""
    model = make_model("llama", attention="eager")
    prompt = make_prompts(1, 20, seed=3)[0]
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(10):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert list(generate(model, [prompt], stop_ids=(), max_new_tokens=10)[0].tokens) == tokens[len(prompt) :]


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it() -> None:
    """Cut at the first stop token, whichever of several; without one the answer runs to the limit, unfinished."""
    model = make_model()
    prompt = make_prompts(1, 20, seed=3)[0]
    free = generate(model, [prompt], stop_ids=(), max_new_tokens=10)[0]
    assert len(free.tokens) == 10
    assert not free.finished
    stop = free.tokens[4]
    ended = generate(model, [prompt], stop_ids=(VOCABULARY - 1, stop), max_new_tokens=10)[0]
    assert ended.finished
    assert ended.tokens == free.tokens[: free.tokens.index(stop)]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_stream_ends_where_generate_ends(temperature: float) -> None:
    """Greedy streaming equals batched generation; sampled streaming repeats with its seed and stops at the limit."""
    model = make_model()
    for prompt in make_prompts(6, 20):
        first = list(stream(model, prompt, stop_ids=STOPS, max_new_tokens=12, temperature=temperature, seed=5))
        again = list(stream(model, prompt, stop_ids=STOPS, max_new_tokens=12, temperature=temperature, seed=5))
        assert first == again
        assert len(first) <= 12
        assert not set(first) & set(STOPS)
        if temperature == 0:
            assert tuple(first) == generate(model, [prompt], stop_ids=STOPS, max_new_tokens=12)[0].tokens


def test_sampling_follows_seed_temperature_and_top_p() -> None:
    """The same seed repeats the answers, another one changes them; a tiny top_p leaves only the likeliest token."""
    model = make_model()
    prompts = make_prompts(6, 20)

    def sample(**options: float) -> list[tuple[int, ...]]:
        return [a.tokens for a in generate(model, prompts, stop_ids=(), max_new_tokens=12, **options)]  # type: ignore[arg-type]

    assert sample(temperature=1.0, seed=1) == sample(temperature=1.0, seed=1)
    assert sample(temperature=1.0, seed=1) != sample(temperature=1.0, seed=2)
    assert sample(temperature=1.0, top_p=1e-9) == sample()
    lone = list(stream(model, prompts[0], stop_ids=(), max_new_tokens=12, temperature=1.0, top_p=1e-9))
    assert tuple(lone) == sample()[0]


def test_sampling_leaves_the_random_state_alone() -> None:
    """A training that samples in between goes on with the random numbers it would have had."""
    model = make_model()
    torch.manual_seed(1)
    before = torch.rand(3)
    torch.manual_seed(1)
    generate(model, [[3, 4]], stop_ids=(), max_new_tokens=3, temperature=1.0)
    list(stream(model, [3, 4], stop_ids=(), max_new_tokens=3, temperature=1.0))
    assert torch.equal(torch.rand(3), before)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_near_the_end_of_the_context_a_row_gets_what_is_left(name: str) -> None:
    """Rows beside it are not shortened, and no position beyond the context is computed."""
    model = make_model(name)
    context = model.config.max_position_embeddings
    long, short = [3 + n % 50 for n in range(context - 2)], [3, 4, 5]
    answers = generate(model, [long, short], stop_ids=(), max_new_tokens=8)
    assert [len(answer.tokens) for answer in answers] == [2, 8]
    assert answers[1] == generate(model, [short], stop_ids=(), max_new_tokens=8)[0]
    assert len(list(stream(model, long, stop_ids=(), max_new_tokens=8))) == 2


def test_a_prompt_without_room_or_tokens_is_refused() -> None:
    """The error names the prompt, its length and the context."""
    model = make_model()
    context = model.config.max_position_embeddings
    with pytest.raises(ModelError, match=rf"prompt 2 has {context} tokens, and the model's context holds {context}"):
        generate(model, [[3], [3] * context], stop_ids=(), max_new_tokens=4)
    with pytest.raises(ModelError, match="has no tokens"):
        generate(model, [[]], stop_ids=(), max_new_tokens=4)


def test_the_model_is_left_as_it_was() -> None:
    """Attention, mode and generation settings come back, even when an answer is abandoned half way."""
    model = make_model().train()
    model.generation_config.repetition_penalty = 3.0
    settings, attention = model.generation_config, model.config._attn_implementation
    generate(model, [[3, 4]], stop_ids=(), max_new_tokens=2)
    for number, _ in enumerate(stream(model, [3, 4], stop_ids=(), max_new_tokens=9)):
        if number == 1:
            break
    assert model.training
    assert model.generation_config is settings
    assert model.config._attn_implementation == attention


def test_the_models_own_generation_settings_do_not_colour_the_answer() -> None:
    """Greedy means greedy, whatever generation_config.json recommends."""
    model = make_model()
    prompts = make_prompts(4, 10)
    plain = generate(model, prompts, stop_ids=STOPS, max_new_tokens=12)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 12
    assert generate(model, prompts, stop_ids=STOPS, max_new_tokens=12) == plain


def test_an_adapter_answers_as_itself_and_switched_off_as_its_base() -> None:
    """PEFT-wrapped models generate as they are; with the adapter disabled, the answers are the base model's."""
    from peft import LoraConfig, get_peft_model

    base = make_model()
    prompts = make_prompts(5, 20)
    before = generate(base, prompts, stop_ids=STOPS, max_new_tokens=12)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = get_peft_model(base, config).double()
    tuned = generate(wrapped, prompts, stop_ids=STOPS, max_new_tokens=12)
    with wrapped.disable_adapter():
        assert generate(wrapped, prompts, stop_ids=STOPS, max_new_tokens=12) == before
        assert tuple(stream(wrapped, prompts[0], stop_ids=STOPS, max_new_tokens=12)) == before[0].tokens
    assert tuned != before
    assert wrapped.get_base_model().config._attn_implementation == "attune_exact"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_answer_whose_beginning_is_known_is_the_same(name: str) -> None:
    """Only the rest is made, also near the end of the context; a known end or a known whole needs no model."""
    model = make_model(name, dtype=torch.float32)
    prompts = [[3 + (7 * place + length) % 50 for place in range(length)] for length in (9, 30, 4, 120, 17)]
    whole = generate(model, prompts, stop_ids=[], max_new_tokens=12)
    stop = whole[0].tokens[5]
    wanted = generate(model, prompts, stop_ids=[stop], max_new_tokens=12)
    begun = [
        (*wanted[0].tokens, stop), whole[1].tokens[:2], (), whole[3].tokens[:3], (*whole[4].tokens, 1, 2, 3)
    ]  # fmt: skip
    if stop in begun[4]:
        begun[4] = ()
    heard: list[int] = []
    made = generate(model, prompts, stop_ids=[stop], max_new_tokens=12, begun=begun, on_rows=heard.append)
    assert made == wanted
    assert heard[-1] == 5
    assert made[0].finished
    assert [len(one.tokens) for one in whole] == [12, 12, 12, 8, 12]


def test_batches_hold_every_row_once_and_have_room() -> None:
    """Every row is in exactly one batch of at most `batch_rows`; each has room for what is wanted of any of them."""
    source = random.Random(0)
    lengths = [source.randint(1, 300) for _ in range(200)]
    rooms = [310 - length for length in lengths]
    limits = [min(source.randint(1, 50), room) for room in rooms]
    batches = list(_batches(_Places(lengths, limits, rooms), 16))
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert max(map(len, batches)) == 16
    assert all(max(limits[row] for row in batch) <= min(rooms[row] for row in batch) for batch in batches)


def test_batches_of_equal_limits_hold_rows_of_like_length() -> None:
    """Where as much is wanted of all, a row near the end of its context shares its batch with none that gets more."""
    source = random.Random(0)
    lengths = [source.randint(1, 300) for _ in range(200)]
    limits = [min(50, 310 - length) for length in lengths]
    batches = list(_batches(_Places(lengths, limits, [310 - length for length in lengths]), 16))
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert all(len({limits[row] for row in batch}) == 1 and len(batch) <= 16 for batch in batches)
    assert all(lengths[batch[0]] == max(lengths[row] for row in batch) for batch in batches)
    assert [len(batch) for batch in _batches(_Places([5, 4, 5, 4], [9] * 4, [9] * 4), 16, may_pad=False)] == [2, 2]
    assert [len(batch) for batch in _batches(_Places([40_000] * 3, [10] * 3, [10] * 3), 16)] == [1, 1, 1], (
        "tokens are bounded too"
    )


def test_a_real_model_answers_as_plain_transformers_does(stories: Path) -> None:
    """stories260K through our attention and batching says what transformers alone says, prompt by prompt."""
    plain = AutoModelForCausalLM.from_pretrained(stories).eval()
    prompts = make_prompts(6, 30, vocabulary=512)
    expected = []
    for prompt in prompts:
        whole = plain.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20, pad_token_id=0)
        expected.append(whole[0, len(prompt) :].tolist())
    answers = generate(load_model(stories), prompts, stop_ids=(2,), max_new_tokens=20)
    assert [list(answer.tokens) for answer in answers] == [[t for t in tokens if t != 2] for tokens in expected]

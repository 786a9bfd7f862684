"""The starter model: clean text, a tokenizer that loses nothing, right measurements, and weights that know English."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attune.data.encoding.tokenizer import load_tokenizer

CHECKOUT = Path(__file__).resolve().parents[1]
STARTER = CHECKOUT / "src" / "attune" / "bundled" / "starter"


def recipe(name: str) -> ModuleType:
    """Load a script of recipes/starter as a module."""
    spec = importlib.util.spec_from_file_location(f"starter_{name}", CHECKOUT / "recipes" / "starter" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prepare, tokenizer, make_model = recipe("prepare"), recipe("tokenizer"), recipe("make_model")
measure, publish = recipe("measure"), recipe("publish")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Loki () is a god.", "Loki is a god."),
        ("Hercule Poirot (; ]) is a detective.", "Hercule Poirot is a detective."),
        ("The Sabine (; Alibamu: Sabika ) is a river.", "The Sabine (Alibamu: Sabika) is a river."),
        ("Gutenberg ( ; 1398 - 1468) printed.", "Gutenberg (1398 - 1468) printed."),
        ("Call its Form1.Close() to close it.", "Call its Form1.Close() to close it."),
        ("A vitamin ( and ) is needed.", "A vitamin is needed."),
        ("Amicable numbers formula_1 satisfy formula_2.", ""),
        ("It lies at , west of Spring Arbor.", "It lies at, west of Spring Arbor."),
        ('He was in "" and "Mannequin" (1987).', 'He was in and "Mannequin" (1987).'),
        ("s of 2015[ [update]] he lives.", "As of 2015 he lives."),
        ('An event.<ref name="hep-ph"></ref> Another.</dl>', "An event. Another."),
        ("A well-formed (1990) line, [quoted] and 3.5 long.", "A well-formed (1990) line, [quoted] and 3.5 long."),
    ],
)
def test_damage_of_the_extraction_is_mended(raw: str, clean: str) -> None:
    """What the extraction left behind goes, and what is well-formed stays as it is."""
    after = "Another sentence stands below, long enough to be no heading."
    assert prepare.clean_article(f"{raw}\n{after}") == f"{clean}\n{after}".strip()


def test_reference_sections_go_and_others_stay() -> None:
    """A section of references goes with its heading; the section after it stays."""
    city, winter = "Oslo is the capital of Norway and its largest city.", "It is cold there in the winter, and dark."
    text = f'{city}\nReferences.\nA. Book, "Oslo", 1990.\nNotes\nClimate.\n{winter}\nExternal links.\nA list.'
    assert prepare.clean_article(text) == f"{city}\nClimate.\n{winter}"


def test_novels_are_unwrapped_but_verse_is_not() -> None:
    """Prose of long lines becomes one line; short lines keep their breaks; the cut-off last paragraph goes."""
    prose = "It was a bright cold day in April, and the clocks were striking\nthirteen as he went through the doors."
    text = f"{prose}\n\nTwinkle, twinkle,\nlittle star.\n\nHe was just about to say th"
    assert prepare.clean_novel(text) == prose.replace("\n", " ") + "\n\nTwinkle, twinkle,\nlittle star."


def test_articles_of_the_test_set_are_left_out() -> None:
    """An article that WikiText-2 tests on goes nowhere; every other title always goes to the same file."""
    row = {"source": "wiki", "title": "Nero", "text": "Nero was an emperor. " * 20}
    assert prepare.clean_row(json.dumps(row).encode())[0] == ""
    shares = [prepare.clean_row(json.dumps({**row, "title": f"Title {n}"}).encode())[0] for n in range(600)]
    assert shares == [prepare.share(f"Title {n}") for n in range(600)]
    assert 3 <= shares.count("heldout") <= 20
    assert 3 <= shares.count("valid") <= 20


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "  two  spaces\t\n\n",
        "naïve Ωμέγα 東京 🦊\u200d!",
        "\x00\x07\ufeff",
        '{"a": [1, 23, null]}',
        "don't 3.14\r\n",
    ],
)
def test_every_text_round_trips(text: str) -> None:
    """The tokenizer gives back any text, byte for byte."""
    bundled = load_tokenizer(STARTER)
    assert bundled.decode(bundled.encode(text)) == text


def test_the_tokenizer_is_what_the_recipe_says() -> None:
    """8,192 tokens, digits alone, JSON marks whole, nothing added in front, and transformers sees the same."""
    bundled = load_tokenizer(STARTER)
    pieces = [bundled.decode([token]) for token in bundled.encode('order 48213\n{"order": "48213"}')]
    assert pieces == ["order", " ", *"48213", "\n", '{"', "order", '":', ' "', *"48213", '"}']
    assert (bundled.vocab_size, bundled.bos_id, bundled.adds_bos) == (8192, None, False)
    assert (bundled.eos_token, bundled.eos_id) == ("<|endoftext|>", 0)
    theirs = AutoTokenizer.from_pretrained(STARTER)
    assert theirs("Hello there, 12 foxes!").input_ids == bundled.encode("Hello there, 12 foxes!")


def test_training_the_tokenizer_is_deterministic() -> None:
    """The same texts give the same tokenizer."""
    texts = [f"the fox number {n} jumps over lazy dog {n * 7}" for n in range(200)]
    first, second = (tokenizer.train_tokenizer(iter(texts), vocabulary=400).to_str() for _ in range(2))
    assert first == second


def test_start_weights_are_scaled_and_fit() -> None:
    """The model fits the package in bfloat16, its head is its embedding, and residual branches start smaller."""
    model = make_model.build_model(8192, 0, 1)
    assert sum(weight.numel() for weight in model.parameters()) * 2 < 24_000_000
    assert model.lm_head.weight is model.model.embed_tokens.weight
    layer = model.model.layers[0]
    assert float(layer.mlp.up_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(layer.mlp.down_proj.weight.detach().std()) == pytest.approx(0.02 / math.sqrt(12), rel=0.02)
    assert torch.equal(layer.input_layernorm.weight, torch.ones(320))


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 28, 29, 100])
def test_windows_score_every_token_once(length: int) -> None:
    """Every token but the first is scored exactly once, after at least a quarter of the context if there is."""
    found = measure.windows(list(range(length)), 16)
    scored = [int(token) for window in found for token in window.tokens[window.learned]]
    assert scored == list(range(1, length))
    assert all(len(window.tokens) <= 16 for window in found)
    assert all(int(np.argmax(window.learned)) >= 4 for window in found[1:])


def test_an_article_is_cut_out_of_wikitext() -> None:
    """Only the named article goes; headings of sections do not end it."""
    before, after = "\n = Manila = \n\n A city .\n", " = Nerva = \n\n Another .\n"
    nero = " = Nero = \n\n An emperor .\n = = Life = = \n He lived .\n"
    assert measure.without_article(before + nero + after, "Nero") == before + after


def test_bits_per_byte_are_those_of_the_model(stories: Path) -> None:
    """For a text within the context they are transformers' own loss, plus the vocabulary's log2 for its start."""
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    scorer = measure.Scorer(stories, device="cpu")
    ids = torch.tensor([scorer.tokenizer.encode(text)])
    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32)
    with torch.no_grad():
        nats = float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1) + math.log(512)
    expected = nats / math.log(2) / len(text.encode())
    assert measure.bits_per_byte(scorer, [text])["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_blimp_prefers_the_likelier_sentence(stories: Path, tmp_path: Path) -> None:
    """Accuracy is 1 where the good sentence is likelier, 0 where labels are swapped, and a mean over paradigms."""
    good = ["Once upon a time, there was a little girl.", "She went to the park to play with her friends."]
    bad = ["Once girl a little, there a upon was time.", "Friends her with play to park the to went she."]
    rows = [{"uid": uid, "good": g, "bad": b} for g, b in zip(good, bad, strict=True) for uid in ("order", "again")]
    rows += [{"uid": "swapped", "good": row["bad"], "bad": row["good"]} for row in rows[:2]]
    file = tmp_path / "blimp.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = measure.blimp(measure.Scorer(stories, device="cpu"), file, rows_each=10)
    assert found["by_paradigm"] == {"again": 1.0, "order": 1.0, "swapped": 0.0}
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_published_weights_are_the_rounded_ones(tmp_path: Path) -> None:
    """Publishing rounds the weights to bfloat16, says so in the config, and leaves a chat template behind."""
    model = make_model.build_model(8192, 0, 1, hidden=64, layers=1, heads=1)
    make_model.write_folder(model, STARTER, tmp_path / "run" / "model")
    (tmp_path / "run" / "model" / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    publish.publish_weights(tmp_path / "run", tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert found.dtype == torch.bfloat16
    for name, weight in model.named_parameters():
        assert torch.equal(found.get_parameter(name), weight.to(torch.bfloat16))
    names = {file.name for file in (tmp_path / "out").iterdir()}
    weights = {"model.safetensors", "config.json", "generation_config.json"}
    assert names == weights | {"tokenizer.json", "tokenizer_config.json"}


def test_the_bundled_weights_know_english() -> None:
    """The published model fits the package, loads in plain transformers, and predicts words better than their order."""
    assert (STARTER / "model.safetensors").stat().st_size < 24_000_000
    model = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    bundled = load_tokenizer(STARTER)
    sentence = "The city lies on the western bank of the river and is the capital of the province."

    def loss(text: str) -> float:
        ids = torch.tensor([bundled.encode(text)])
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss)

    assert loss(sentence) < 4.0
    assert loss(sentence) + 1.0 < loss(" ".join(reversed(sentence.split())))

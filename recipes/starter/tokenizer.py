"""Trains the starter's tokenizer: a byte-level BPE of 8,192 tokens in which every digit stands alone.

python recipes/starter/tokenizer.py --text work/starter/train.jsonl --out src/attune/bundled/starter
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 8192
END = "<|endoftext|>"
PAD = "<|pad|>"
# The two turn marks are reserved: no text of the pretraining holds them, a chat template may give them a meaning.
SPECIAL = [END, PAD, "<|im_start|>", "<|im_end|>"]
# As GPT-2 splits, but a digit is always a token of its own and never takes the space before it: a number then has the
# same tokens in a sentence and inside JSON, which makes it easy to copy.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
STRUCTURED_SHARE = 0.02
SEED = 0
WORDS = ("name", "title", "kind", "id", "count", "items", "value", "status", "note", "source", "part", "first", "last")


def structured_line(titles: list[str], dice: random.Random) -> str:
    """Return one line of JSON, a list or a table whose values are article titles: markup without invented facts."""
    picked = dice.sample(titles, 3)
    keys = dice.sample(WORDS, 3)
    record = {keys[0]: picked[0], keys[1]: dice.choice([True, False, None, picked[1], picked[1:]]), keys[2]: picked[2]}
    shape = dice.randrange(4)
    if shape == 0:
        return json.dumps(record, ensure_ascii=False)
    if shape == 1:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    if shape == 2:
        return json.dumps([record], ensure_ascii=False, indent=2)
    return "\n".join(f"{key}: {value}" for key, value in record.items())


def sample_texts(file: Path, *, budget: int) -> Iterator[str]:
    """Yield texts of the training part, evenly spread over the file, and structured lines among them.

    `budget` is in bytes of text; about STRUCTURED_SHARE of it is structured.
    """
    every = max(1, file.stat().st_size // budget)
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for number, line in enumerate(lines) if number % every == 0]
    titles = [row["title"] for row in rows if row["source"] == "wiki"]
    dice = random.Random(SEED)
    owed = 0.0
    for row in rows:
        yield row["text"]
        owed += STRUCTURED_SHARE * len(row["text"])
        while owed > 0:
            line = structured_line(titles, dice)
            owed -= len(line)
            yield line


def train_tokenizer(texts: Iterator[str], *, vocabulary: int = VOCABULARY) -> Tokenizer:
    """Return a byte-level BPE learned from `texts`; every text round-trips, whatever its bytes."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line, train, save, and print how many bytes a token holds on the last texts of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="train.jsonl of prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer's files")
    parser.add_argument("--megabytes", type=int, default=60, help="text to learn from")
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(sample_texts(arguments.text, budget=arguments.megabytes * 10**6))
    save(tokenizer, arguments.out)
    with arguments.text.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in list(lines)[-200:]]
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    size = sum(len(text.encode()) for text in texts)
    print(f"{tokenizer.get_vocab_size()} tokens; {size / tokens:.3f} bytes a token on the last {len(texts)} texts")


if __name__ == "__main__":
    main()

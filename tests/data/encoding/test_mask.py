"""The mask: what is learned, with which tokens, for tokenizers of several kinds; and rows over the longest length."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from attune.config import Config
from attune.data.encoding.mask import Masker
from attune.data.encoding.proof import says_answer
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import Tokenizer, load_tokenizer
from attune.data.prepare import Prepared, prepare
from attune.errors import ConfigError, DataError, TemplateError
from attune.types import Example, Message, Place
from tests.data.bad_inputs import write_tokenizer

TOKENIZERS = (
    "stories260K",
    "babyllama-361byte-1.0M",
    "tokenizer-gpt2",
    "tokenizer-llama-spm-32k",
    "tokenizer-phi3-chat",
)
ANSWERS = ("yes", " leading", "trailing \n", "\nline", "  two", "naïve 你好 🙂", "12", "</div>", "a\tb", "'s", ".", "é")
QUESTIONS = ("What?", "ends in space ", "ends in breaks\n\n", "1", "", "(", "it'")


load_once = cache(load_tokenizer)  # real ones are large, and nothing changes them


def example(question: str, answer: str) -> Example:
    """Return one question and its answer."""
    return Example(Place("f.jsonl", 1, 0), messages=(Message("user", question), Message("assistant", answer)))


def prepare_rows(folder: Path, rows: list[Any], **settings: Any) -> Prepared:
    """Return rows prepared with a tokenizer of bytes, no row held out."""
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    config = Config().with_values({"data.train": str(path), "data.valid_share": 0.0, **settings})
    return prepare(config, load_tokenizer(write_tokenizer(folder / "t")), model_length=None)


def learned_text(prepared: Prepared, tokenizer_folder: Path, row: int = 0) -> str:
    """Return what the learned tokens of a row say."""
    tokens, learned = prepared.train.row(row)
    return load_tokenizer(tokenizer_folder).decode(tokens[learned].tolist())


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["auto", "plain", "none"])
def test_learned_tokens_are_the_answer_and_its_terminator(name: str, template: str, shared: Path) -> None:
    """For odd answers after odd questions, real tokenizers learn exactly the answer, after the tokens of the prompt."""
    tokenizer = load_once(shared / "models" / name)
    opened = open_template(template, tokenizer)
    masker = Masker(opened, "completion")
    for question in QUESTIONS:
        for answer in ANSWERS:
            row = masker.encode([example(question, answer)])[0]
            first = int(np.argmax(row.learned)) if tokenizer.adds_bos or question or template != "none" else 0
            last = len(row.tokens) - int(np.argmax(row.learned[::-1]))
            run = row.tokens[first:last].tolist()
            is_after_control = first == 0 or row.tokens[first - 1] in tokenizer.control_ids
            said = tokenizer.decode(run) if is_after_control else tokenizer.decode_after(run)
            assert said == answer + opened.terminator, (question, answer)
            before = tokenizer.encode(opened.render_prompt([Message("user", question)]))
            assert row.tokens[:first].tolist() == before, (question, answer)


def test_a_wrong_mask_does_not_pass_the_proof(shared: Path) -> None:
    """A mask that is one token short, long or late is found out."""
    tokenizer = load_once(shared / "models" / "tokenizer-gpt2")
    template = open_template("plain", tokenizer)
    masker = Masker(template, "completion")
    rendered = template.render(example("What is it?", "It is a test."))
    draft = masker._draft(example("What is it?", "It is a test."), rendered, masker.encode_texts([rendered])[0])
    first, last = draft.ranges[0]
    assert says_answer(draft, template)
    for wrong in ((first + 1, last), (first - 1, last), (first, last - 1)):
        assert not says_answer(draft._replace(ranges=(wrong,)), template, strict=False)
    spans = (draft.spans[0]._replace(expected="It is another<|endoftext|>"),)
    with pytest.raises(TemplateError, match="do not say the answer: they differ at character"):
        masker._verified(draft._replace(spans=spans))


def test_a_tokenizer_that_loses_letters_is_reported(tmp_path: Path) -> None:
    """Where the tokenizer itself cannot give the answer back, its own round trip counts, and the row is reported."""
    vocabulary = {"<unk>": 0, "</s>": 1, **{letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz :\n", 2)}}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(["<unk>", "</s>"])
    folder = tmp_path / "lossy"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    masker = Masker(open_template("plain", load_tokenizer(folder)), "completion")
    masker.encode([example("q", "plain words")])
    assert not masker.lossy
    masker.encode([example("q", "Capitals")])
    assert len(masker.lossy) == 1


@pytest.mark.parametrize(
    ("mask", "said"),
    [("completion", "one</s>two</s>"), ("assistant", "one</s>two</s>"), ("last", "two</s>")],
)
def test_mask_modes(mask: str, said: str, tmp_path: Path) -> None:
    """All answers, or the last one; each with its end."""
    turns = [("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    prepared = prepare_rows(tmp_path, [row], **{"data.mask": mask})
    assert learned_text(prepared, tmp_path / "t") == said


def test_everything_is_learned_but_the_first_token(tmp_path: Path) -> None:
    """Mask `all` learns every token that has one before it to be predicted from; so do rows of plain text."""
    pair = prepare_rows(tmp_path, [{"prompt": "q", "completion": "a"}], **{"data.mask": "all"})
    assert pair.train.num_learned == len(pair.train.tokens) - 1
    text = prepare_rows(tmp_path, [{"text": "some words"}])
    assert learned_text(text, tmp_path / "t") == "ome words</s>"


def test_messages_overrule_the_mask(tmp_path: Path) -> None:
    """Train = false keeps an answer out, train = true lets a question in, a weight is that of its turn's tokens."""
    turns = [
        {"role": "user", "content": "ask", "train": True},
        {"role": "assistant", "content": "one", "train": False},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "two", "weight": 0.5},
    ]
    prepared = prepare_rows(tmp_path, [{"messages": turns}])
    assert learned_text(prepared, tmp_path / "t") == "asktwo</s>"
    assert prepared.train.weights is not None
    learned = prepared.train.learned
    assert prepared.train.weights[learned].tolist() == [1.0] * len("ask") + [0.5] * (int(learned.sum()) - len("ask"))


def test_answers_in_a_prompt_list_are_context(tmp_path: Path) -> None:
    """Mask `completion` learns the completion alone; `assistant` the answers in the prompt too."""
    turns = [("user", "a"), ("assistant", "old"), ("user", "b")]
    row = {"prompt": [{"role": role, "content": text} for role, text in turns], "completion": "new"}
    assert learned_text(prepare_rows(tmp_path, [row]), tmp_path / "t") == "new</s>"
    both = prepare_rows(tmp_path, [row], **{"data.mask": "assistant"})
    assert learned_text(both, tmp_path / "t") == "old</s>new</s>"


ROWS = [{"prompt": "p" * 10, "completion": "short"}, {"prompt": "p" * 10, "completion": "x" * 100}]


def test_long_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    """Policy drop: the row goes, its tokens are lost, and the finding says what the other policies would cost."""
    prepared = prepare_rows(tmp_path, ROWS, **{"data.max_length": 60})
    assert prepared.train.num_rows == 1
    assert prepared.ledger.reasons == {"dropped: too long": 1}
    assert prepared.ledger.tokens_lost == prepared.ledger.tokens_in - len(prepared.train.tokens)
    finding = next(finding for finding in prepared.findings if finding.id == "D12")
    assert "drop loses 1 row" in finding.message
    assert "cut loses 0 rows" in finding.fix
    assert prepared.ledger.learned_lost == len("x" * 100) + 1
    assert prepared.ledger.learned_in - prepared.ledger.learned_lost == prepared.train.num_learned
    cut = prepare_rows(tmp_path, ROWS, **{"data.max_length": 60, "data.overlong": "cut"})
    assert cut.ledger.learned_in - cut.ledger.learned_lost == cut.train.num_learned
    split = prepare_rows(tmp_path, ROWS, **{"data.max_length": 60, "data.overlong": "split"})
    assert split.ledger.learned_lost == 0


def test_a_cut_answer_has_no_end_token(tmp_path: Path) -> None:
    """Policy cut: the beginning stays, without a terminator that the answer never had there."""
    prepared = prepare_rows(tmp_path, ROWS, **{"data.max_length": 60, "data.overlong": "cut"})
    assert prepared.ledger.counts["cut"] == 1
    said = learned_text(prepared, tmp_path / "t", row=1)
    assert set(said) == {"x"}
    assert prepared.train.lengths.tolist()[1] == 60


def test_split_pieces_learn_every_token_once(tmp_path: Path) -> None:
    """Policy split: together the pieces learn the whole answer, each token once, and only the last one its end."""
    prepared = prepare_rows(tmp_path, ROWS, **{"data.max_length": 40, "data.overlong": "split"})
    said = "".join(learned_text(prepared, tmp_path / "t", row=row) for row in range(1, prepared.train.num_rows))
    assert said == "x" * 100 + "</s>"
    assert prepared.train.lengths.max() <= 40
    assert prepared.ledger.counts["used"] == 2


def test_long_rows_can_be_an_error(tmp_path: Path) -> None:
    """Policy error names the first row, its length and how many there are."""
    with pytest.raises(DataError, match=r"rows.jsonl:2 has \d+ tokens.*\n1 row is over it"):
        prepare_rows(tmp_path, ROWS, **{"data.max_length": 60, "data.overlong": "error"})


def test_a_limit_over_the_models_is_refused(tmp_path: Path) -> None:
    """data.max_length cannot be more than the model attends to; auto is the smaller of that and 4096."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(ROWS[0]))
    tokenizer: Tokenizer = load_tokenizer(write_tokenizer(tmp_path / "t"))
    config = Config().with_values({"data.train": str(path)})
    assert prepare(config, tokenizer, model_length=512).max_length == 512
    assert prepare(config, tokenizer, model_length=100_000).max_length == 4096
    with pytest.raises(ConfigError, match="attends to at most 512"):
        prepare(config.with_values({"data.max_length": 513}), tokenizer, model_length=512)


def test_the_preview_shows_what_is_learned(tmp_path: Path) -> None:
    """The pieces of a preview row are its text, marked 1 where it is learned."""
    row = prepare_rows(tmp_path, ROWS).preview[0]
    assert row["pieces"] == [["User: pppppppppp\nAssistant:\n", 0], ["short</s>", 1]]
    assert (row["line"], row["state"], row["learned"]) == (1, "used", 6)

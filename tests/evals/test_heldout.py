"""Held-out loss token by token: each loss stands at its token, and the figures of rows follow from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attune.data.corpus import Corpus
from attune.evals.heldout import measure, predicted_tokens, rows_of
from tests.tiny import make_corpus, make_model

LENGTHS = [9, 4, 17, 2, 1, 30, 12]


@torch.no_grad()
def plain(corpus: Corpus, model: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return loss and rightness of every learned token, one row at a time with plain torch."""
    losses, right = [], []
    for row in range(corpus.num_rows):
        tokens, learned = corpus.row(row)
        ids = torch.tensor(tokens, dtype=torch.int64)
        logits = model(input_ids=ids[None], use_cache=False).logits[0].double()
        for place in range(1, len(ids)):
            if learned[place]:
                losses.append(float(-logits[place - 1].log_softmax(0)[ids[place]]))
                right.append(int(logits[place - 1].argmax()) == int(ids[place]))
    return np.array(losses), np.array(right)


@pytest.mark.parametrize("micro_tokens", [1, 25, 10_000])
def test_every_loss_stands_at_its_token(micro_tokens: int) -> None:
    """Losses come in the order of the corpus whatever the batches, equal to plain torch row by row (float64)."""
    corpus, model = make_corpus(LENGTHS), make_model()
    measured = measure(model, corpus, micro_tokens=micro_tokens)
    losses, right = plain(corpus, make_model(attention="eager"))
    np.testing.assert_allclose(measured.token_loss, losses, rtol=1e-6)
    assert measured.token_right.tolist() == right.tolist()
    assert measured.token_loss.dtype == np.float32
    assert len(measured.token_loss) == measured.tokens == len(predicted_tokens(corpus))
    assert measured.loss == pytest.approx(losses.mean(), rel=1e-7)
    assert measured.accuracy == pytest.approx(right.mean())
    rows = rows_of(corpus)[predicted_tokens(corpus)]
    for row in range(corpus.num_rows):
        own = losses[rows == row]
        assert measured.row_loss[row] == pytest.approx(own.mean() if len(own) else np.nan, rel=1e-6, nan_ok=True)


def test_an_exact_row_has_every_token_right() -> None:
    """Exact match is the share of rows with all learned tokens right; a row that teaches nothing does not count."""
    corpus, model = make_corpus(LENGTHS), make_model()
    eager, follows = make_model(attention="eager"), corpus.tokens.copy()
    wanted = [0, 2, 5]  # rows whose learned tokens are made what the model ranks first
    for row in wanted:
        start, end = corpus.offsets[row], corpus.offsets[row + 1]
        for place in range(start + 1, end):
            if corpus.learned[place]:
                ids = torch.tensor(follows[start:place], dtype=torch.int64)
                with torch.no_grad():
                    follows[place] = int(eager(input_ids=ids[None], use_cache=False).logits[0, -1].argmax())
    measured = measure(model, replace(corpus, tokens=follows), micro_tokens=40)
    rows = rows_of(corpus)[predicted_tokens(corpus)]
    teaches = sorted(set(rows.tolist()))
    assert np.isnan(measured.row_loss).sum() == len(LENGTHS) - len(teaches) > 0
    exact = [row for row in teaches if measured.token_right[rows == row].all()]
    assert set(wanted) <= set(exact) < set(teaches)
    assert measured.exact_match == pytest.approx(len(exact) / len(teaches))


def test_a_first_token_carries_no_loss() -> None:
    """A first token marked as learned is predicted from nothing: it has no loss, and all others keep their places."""
    corpus, model = make_corpus([5, 1, 6]), make_model()
    marked = replace(corpus, learned=np.ones_like(corpus.learned))
    measured = measure(model, marked, micro_tokens=100)
    assert predicted_tokens(marked).tolist() == [1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert measured.tokens == len(measured.token_loss) == 9
    losses, _ = plain(marked, make_model(attention="eager"))
    np.testing.assert_allclose(measured.token_loss, losses, rtol=1e-6)

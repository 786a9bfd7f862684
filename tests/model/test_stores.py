"""Stores: the products of a dense one are those of its matrix, and fused ones stay one with their layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attune.model.stores import JoinedStore, fuse, store_of


def linear(rows: int, columns: int = 6, *, seed: int = 0) -> nn.Linear:
    """Return a float64 layer with random weights."""
    torch.manual_seed(seed)
    return nn.Linear(columns, rows, bias=False, dtype=torch.float64)


def test_the_products_are_those_of_the_matrix() -> None:
    """Times, back, outer and dense agree with plain torch."""
    layer = linear(4)
    store = store_of(layer)
    x, dy = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    assert (store.out_features, store.in_features, store.dtype) == (4, 6, torch.float64)
    assert torch.equal(store.times(x), layer(x))
    assert torch.equal(store.back(dy), dy @ layer.weight)
    assert torch.equal(store.outer(dy, x), dy.T @ x)
    assert torch.equal(store.dense(), layer.weight)
    assert not store.times(x).requires_grad


def test_a_store_follows_its_layer() -> None:
    """A weight that was changed in place, moved or replaced is the weight of the store."""
    layer = linear(4)
    store = store_of(layer)
    layer.weight.data.mul_(2)
    assert torch.equal(store.dense(), layer.weight)
    layer.weight.data = torch.ones(4, 6, dtype=torch.float64)
    assert torch.equal(store.dense(), layer.weight)


def test_fused_layers_share_one_memory() -> None:
    """Rows lie one below the other; a layer trained afterwards trains the fused weight; nothing is held twice."""
    layers = [linear(4, seed=1), linear(2, seed=2), linear(3, seed=3)]
    before = [layer.weight.detach().clone() for layer in layers]
    store = fuse([store_of(layer) for layer in layers])
    assert torch.equal(store.dense(), torch.cat(before))
    with torch.no_grad():
        layers[1].weight.add_(1)
    assert torch.equal(store.dense()[4:6], before[1] + 1)
    assert layers[2].weight.data_ptr() == store.dense()[6:].data_ptr()
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(torch.cat([layer(x) for layer in layers], -1).detach(), store.times(x))


def test_fused_layers_that_were_moved_are_noticed() -> None:
    """A fused store never computes with weights that its layers no longer have."""
    layers = [linear(4), linear(2)]
    store = fuse([store_of(layer) for layer in layers])
    layers[0].weight.data = layers[0].weight.data.clone()
    with pytest.raises(AssertionError, match="fuse them again"):
        store.dense()


def test_kinds_that_do_not_go_together_stay_side_by_side() -> None:
    """Layers of two types are one store of parts with the same products; other modules are refused."""
    layers = [linear(4), linear(2).float(), linear(3)]
    parts = [store_of(layer) for layer in layers]
    store = fuse(parts)
    assert isinstance(store, JoinedStore)
    x, dy = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    whole = store.dense()
    assert whole.shape == (9, 6)
    torch.testing.assert_close(store.times(x), x @ whole.T)
    torch.testing.assert_close(store.back(dy), dy @ whole)
    torch.testing.assert_close(store.outer(dy, x), dy.T @ x)
    with pytest.raises(ValueError, match="share none"):
        fuse([store_of(linear(4)), store_of(linear(4, 5))])
    with pytest.raises(TypeError, match="Embedding is no linear layer"):
        store_of(nn.Embedding(2, 2))

"""int8 weights of the decoder."""

from __future__ import annotations

import pytest
import torch

from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.layers import Linear
from pipelines.florence2.int8 import weights
from pipelines.florence2.int8.weights import EXACT, MAX_ROWS, Int8Head, Int8Linear, with_int8_weights
from pipelines.florence2.pipeline import Florence2Settings, open_engine


@pytest.fixture
def matrix() -> Linear:
    generator = torch.Generator().manual_seed(1)
    return Linear(torch.randn(96, 64, generator=generator), torch.randn(96, generator=generator))


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(2))


def test_products_of_few_rows_are_close(matrix: Linear) -> None:
    x = rows(3)
    assert (Int8Linear(matrix)(x) - matrix(x)).norm() / matrix(x).norm() < 0.02


def test_products_of_many_rows_are_equal(matrix: Linear) -> None:
    x = rows(MAX_ROWS + 1)
    assert torch.equal(Int8Linear(matrix)(x), matrix(x))


def test_a_row_does_not_depend_on_the_others(matrix: Linear) -> None:
    int8, x = Int8Linear(matrix), rows(4)
    louder = torch.cat([x[:1], x[1:] * 1000])
    assert torch.equal(int8(x)[0], int8(louder)[0])


def test_shape_is_kept(matrix: Linear) -> None:
    assert Int8Linear(matrix)(rows(6).view(2, 3, 64)).shape == (2, 3, 96)


def test_best_outputs_of_the_head_are_exact() -> None:
    weight = torch.randn(500, 64, generator=torch.Generator().manual_seed(3))
    exact, x = Linear(weight), rows(4)
    int8 = Int8Head(exact)(x)
    assert not torch.equal(int8, exact(x))
    best = exact(x).topk(EXACT // 2).indices
    torch.testing.assert_close(int8.gather(1, best), exact(x).gather(1, best))
    assert torch.equal(int8.argmax(1), exact(x).argmax(1))


def test_small_decoder_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Florence2Settings(device="cpu", dtype="float32", engine="fast", int8="off")
    engine = open_engine(settings)
    assert isinstance(engine, FastEngine)
    assert not with_int8_weights(engine.decoder)
    monkeypatch.setattr(weights, "MIN_NUMBERS", 0)
    assert with_int8_weights(engine.decoder)


def test_exact_decoder_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MIN_NUMBERS", 0)
    engine = open_engine(Florence2Settings(device="cpu", dtype="float32", engine="fast", int8="off"))
    assert isinstance(engine, FastEngine)
    rounded = with_int8_weights(engine.decoder)
    assert rounded is not None
    matrices, exact = ([layer.qkv, layer.up, d._head] for d in (rounded, engine.decoder) for layer in d._layers[:1])
    assert all(isinstance(matrix, Int8Linear) for matrix in matrices)
    assert not any(isinstance(matrix, Int8Linear) for matrix in exact)
    assert all(a.weight.data_ptr() == b.weight.data_ptr() for a, b in zip(matrices, exact, strict=True))


def test_bfloat16_decoder_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MIN_NUMBERS", 0)
    engine = open_engine(Florence2Settings(device="cpu", dtype="bfloat16", engine="fast", int8="off"))
    assert isinstance(engine, FastEngine)
    assert not with_int8_weights(engine.decoder)

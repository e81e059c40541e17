"""Products of float32 matrices, whose order of operations depends on the rows."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import SHIPPED, open_folder
from pipelines.florence2.fast import layers
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.layers import FEW_ROWS, LARGE, SLICES, Linear
from pipelines.florence2.tasks import SPECS
from streamer.toyworld.world import World
from streamer.types import Result
from tests.support.checkpoints import assert_same, make_job

WIDTH = 512
ROWS = [1, 2, FEW_ROWS, FEW_ROWS + 1, 24]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("outputs", [LARGE // WIDTH, LARGE // WIDTH + SLICES - 1])
@pytest.mark.parametrize("has_bias", [True, False])
def test_large_product_equals_plain_one(rows: int, outputs: int, has_bias: bool) -> None:
    weight, bias = random(outputs, WIDTH), random(outputs) if has_bias else None
    matrix = Linear(weight, bias)
    assert matrix.large
    for x in (random(rows, WIDTH), random(rows, 1, WIDTH), random(2 * rows, WIDTH)[::2], random(WIDTH, rows).T):
        out, plain = matrix(x), functional.linear(x, weight, bias)
        torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-4)
        assert out.is_contiguous()
    y = random(rows, outputs)
    torch.testing.assert_close(matrix.plus(x, y.clone()), plain + y, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, FEW_ROWS])
def test_product_of_few_rows_runs_in_mkl(rows: int) -> None:
    """torch computes by itself, many times slower, where the strides of an operand do not suit MKL.

    The processor time of one thread counts, which other processes hardly change.
    """
    weight, x = random(8192, 768), random(rows, 768)
    matrix = Linear(weight)

    def seconds(product: Callable[[], torch.Tensor]) -> float:
        started = time.thread_time()
        product()
        return time.thread_time() - started

    ours = min(seconds(lambda: matrix(x)) for _ in range(5))
    assert ours < 3 * min(seconds(lambda: functional.linear(x, weight)) for _ in range(5))


def test_small_matrix_keeps_the_plain_product() -> None:
    assert not Linear(random(16, 8)).large
    assert not Linear(random(LARGE // WIDTH, WIDTH).bfloat16()).large


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("rows", [1, 8])
def test_traced_program_holds_public_operators(rows: int) -> None:
    """Other programs convert it."""
    matrix = Linear(random(LARGE // WIDTH, WIDTH), random(LARGE // WIDTH))
    graph = torch.jit.trace(lambda x: matrix(x), random(rows, WIDTH), check_trace=False).graph
    assert {node.kind() for node in graph.nodes()} <= {"prim::Constant", "aten::linear"}


def test_base_head_chooses_the_same_tokens() -> None:
    """The head of a base model, whose random outputs are close together."""
    weight, states = random(51_328, 768), functional.layer_norm(random(12, 768), (768,))
    head, best = Linear(weight), functional.linear(states, weight).argmax(-1)
    for rows in ROWS:
        assert torch.equal(torch.cat([head(part) for part in states.split(rows)]).argmax(-1), best)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the small model is not there")
def test_answers_do_not_depend_on_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer at a time takes the product of few rows, and all at once that of many."""
    jobs = [make_job(task, World(800 + seed).scene(0.5).paint(320, 240)) for seed, task in enumerate(SPECS)]

    def answers(smallest: int, max_batch: int) -> list[Result]:
        monkeypatch.setattr(layers, "LARGE", smallest)
        engine = FastEngine(load(open_folder(None), "cpu", "float32"), max_batch)
        waiting, found = list(jobs), dict[int, Result]()
        while len(found) < len(jobs):
            count = engine.free()
            engine.admit(waiting[:count])
            waiting = waiting[count:]
            found |= {id(result.job): result for result in engine.step()}
        return [found[id(job)] for job in jobs]

    plain = answers(LARGE, 1)
    assert_same(answers(0, 1), plain)
    assert_same(answers(0, len(jobs)), plain)

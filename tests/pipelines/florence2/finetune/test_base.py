"""Fine-tuning of Florence-2 base, with random weights, beside a plain training step with the class of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.engine import Base, base
from pipelines.florence2.examples import Example
from pipelines.florence2.finetune.adapter import plain, prepared
from pipelines.florence2.finetune.batches import IGNORED, Batch, Encoder, ReadPicture, RunExamples
from pipelines.florence2.finetune.loss import token_losses
from pipelines.florence2.finetune.settings import TrainingSettings
from pipelines.florence2.finetune.trainer import Trainer
from streamer.types import Answer, Box, Region
from tests.support.checkpoints import make_image

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.timeout(900),  # 40 s on an idle core
]
SETTINGS = TrainingSettings(batch=2, epochs=2, rate=0.01)
SMALL = SETTINGS.model_copy(update={"rank": 2})
SIDE = 96
"""Pixels of a picture's side: small, because all weights have their published shapes at any size."""
TOKENS = (SIDE // 32) ** 2 + 1
"""Tokens of a picture."""
EXAMPLES = [
    Example("0", "object_detection", Answer(boxes=(Box(0.1, 0.2, 0.5, 0.6, "region"), Box(0.5, 0.5, 1, 1, "image")))),
    Example("0", "region_to_category", Answer(text="objects"), region=Region(0.1, 0.1, 0.9, 0.9)),
]


@pytest.fixture(scope="module")
def model() -> Base:
    return base(torch.float32)


@pytest.fixture(params=["tied", "untied"])
def network(model: Base, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The model of transformers, whose output head is the embedding, or weights of its own."""
    network = model.network
    head = network.lm_head.weight
    if request.param == "untied":
        torch.manual_seed(2)
        network.lm_head.weight = torch.nn.Parameter(torch.randn_like(head) * 0.02, requires_grad=False)
    yield network
    network.lm_head.weight = head


def _encoder(model: Base, read: ReadPicture = lambda name: make_image(int(name))) -> Encoder:
    images = replace(model.checkpoint.images, width=SIDE, height=SIDE, tokens=TOKENS)
    return Encoder(replace(model.checkpoint, images=images), read)


def _adapted(network: Any) -> Any:
    """Return the model with adapters, whose B, which begins at zero, has values: all gradients differ from zero."""
    torch.manual_seed(0)
    adapted = prepared(network, SETTINGS)
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.02)
    return adapted


def _plain_loss(network: Any, batch: Batch) -> Tensor:
    """Return the mean cross entropy of the answers: labels shifted by hand, logits of transformers."""
    rows, text = len(batch.prompts), network.config.text_config
    image = torch.full((rows, TOKENS), network.config.image_token_id)
    start = torch.full((rows, 1), text.decoder_start_token_id)
    labels = batch.labels.masked_fill(batch.labels == IGNORED, text.pad_token_id)
    logits = network(
        pixel_values=batch.pixels[batch.picture],
        input_ids=torch.cat([image, batch.prompts], dim=1),
        attention_mask=torch.cat([torch.ones_like(image), batch.seen], dim=1),
        decoder_input_ids=torch.cat([start, labels[:, :-1]], dim=1),
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)


def test_adapters_of_base_learn_as_a_plain_step_does(model: Base, network: Any) -> None:
    """Loss and all gradients equal those of the plain loss; the merged model's losses equal the unmerged one's."""
    batch, adapted = _encoder(model).batch(EXAMPLES), _adapted(network)
    unmerged = token_losses(plain(adapted), batch)
    loss = unmerged.mean()
    loss.backward()
    ours = _gradients(adapted)
    plain_loss = _plain_loss(plain(adapted), batch)
    plain_loss.backward()
    theirs = _gradients(adapted)
    assert float(loss.detach()) == pytest.approx(float(plain_loss.detach()), rel=1e-6)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * (6 * 6 + 6 * 10)  # A and B; an encoder layer has 6 targets, a decoder layer 10
    for name, gradient in ours.items():
        assert float(gradient.abs().max()) > 0, name
        assert torch.allclose(gradient, theirs[name], atol=1e-6, rtol=1e-4), name
    with torch.inference_mode():
        adapted.merge_adapter()
        assert torch.allclose(token_losses(plain(adapted), batch), unmerged, atol=1e-5, rtol=1e-5)
        adapted.unmerge_adapter()
    adapted.unload()


def _gradients(adapted: Any) -> dict[str, Tensor]:
    """Return the gradients by name, and remove them from the model."""
    found = {name: weights.grad for name, weights in adapted.named_parameters() if weights.grad is not None}
    adapted.zero_grad(set_to_none=True)
    return found


class Killed(Exception):
    pass


def test_killed_training_of_base_resumes_to_equal_weights(model: Base, tmp_path: Path) -> None:
    reads: list[str] = []

    def trained(state: Path | None = None, killed_at: int | None = None) -> dict[str, Tensor]:
        """Return the trained weights of a run of two steps that is killed when it reads a picture for the n-th time."""
        reads.clear()

        def read(name: str) -> Any:
            reads.append(name)
            if len(reads) == killed_at:
                raise Killed
            return make_image(int(name))

        trainer = Trainer(
            model.network, _encoder(model, read), SMALL, RunExamples(EXAMPLES, EXAMPLES[1:]), torch.device("cpu")
        )
        try:
            trainer.run(lambda line: None, state)
            return {name: weights.detach().clone() for name, weights in trainer.trained.items()}
        finally:
            trainer.model.unload()

    whole = trained()
    assert len(reads) == 4  # each of two steps reads a batch, and then the held-out examples
    with pytest.raises(Killed):
        trained(tmp_path / "run.state", killed_at=3)
    resumed = trained(tmp_path / "run.state")
    assert len(reads) == 2
    assert all(torch.equal(weights, whole[name]) for name, weights in resumed.items())

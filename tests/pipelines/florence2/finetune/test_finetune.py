"""Fine-tuning: loss and gradients beside transformers, frozen weights, resumed runs, merged adapters, a whole run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.examples import Example
from pipelines.florence2.finetune import trainer
from pipelines.florence2.finetune.adapter import merged, plain, prepared
from pipelines.florence2.finetune.batches import IGNORED, Batch, Encoder, RunExamples, epoch
from pipelines.florence2.finetune.loss import token_logits, token_losses
from pipelines.florence2.finetune.run import RECORD, train
from pipelines.florence2.finetune.settings import TrainingSettings
from pipelines.florence2.finetune.trainer import Trainer
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.transformers_model import load_model
from streamer.core.errors import ConfigError
from streamer.types import Answer, Box, Region, Result
from tests.support.checkpoints import IMAGE_TOKENS, build_checkpoint, make_image, make_job

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CPU = torch.device("cpu")

EXAMPLES = [
    Example("0.png", "object_detection", Answer(boxes=(Box(0.1, 0.2, 0.5, 0.6, "car"), Box(0.5, 0.5, 1, 1, "house")))),
    Example("0.png", "caption", Answer(text="a green car")),
    Example("1.png", "region_to_category", Answer(text="house"), region=Region(0.1, 0.1, 0.9, 0.9)),
    Example("2.png", "open_vocabulary_detection", Answer(boxes=(Box(0, 0, 0.3, 0.3, "car"),)), text="a car"),
    Example("3.png", "object_detection", Answer()),
]
HELD_OUT = [Example("9.png", "caption", Answer(text="a yellow house"))]


def _read(name: str) -> Any:
    return make_image(int(name.removesuffix(".png")))


def _model(folder: Path) -> Any:
    files = open_folder(str(folder))
    return load_model(files, load(files, "cpu", "float32").weights.is_tied, torch.float32, CPU)


def _encoder(folder: Path) -> Encoder:
    return Encoder(load(open_folder(str(folder)), "cpu", "float32"), _read)


def _trainer(
    folder: Path, examples: Sequence[Example] = EXAMPLES, rehearsed: Sequence[Example] = (), **settings: Any
) -> Trainer:
    values = {"batch": 2, "epochs": 3, "rank": 4, "rate": 0.01, **settings}
    used = RunExamples(examples, HELD_OUT, rehearsed)
    return Trainer(_model(folder), _encoder(folder), TrainingSettings(**values), used, CPU)


def _their_loss(model: Any, batch: Batch, image_tokens: int) -> torch.Tensor:
    """Return the mean loss by the `labels` of transformers, its inputs built as its processor does."""
    image = torch.full((len(batch.prompts), image_tokens), model.config.image_token_id)
    loss: torch.Tensor = model(
        pixel_values=batch.pixels[batch.picture],
        input_ids=torch.cat([image, batch.prompts], dim=1),
        attention_mask=torch.cat([torch.ones_like(image), batch.seen], dim=1),
        labels=batch.labels,
    ).loss
    return loss


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_transformers(tmp_path: Path, tied: bool) -> None:
    folder = build_checkpoint(tmp_path / "small", tied=tied)
    batch, settings = _encoder(folder).batch(EXAMPLES), TrainingSettings(rank=4)
    gradients = []
    sides: list[Callable[[Any], Any]] = [
        lambda model: token_losses(model, batch).mean(),
        lambda model: _their_loss(model, batch, IMAGE_TOKENS),
    ]
    for compute in sides:
        torch.manual_seed(0)
        model = prepared(_model(folder), settings)
        _fill_adapters(model)
        compute(plain(model)).backward()
        gradients.append({name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None})
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * 32  # A and B of 2 encoder layers with 6 targets and 2 decoder layers with 10
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-6, rtol=1e-4), name


def _fill_adapters(model: Any) -> None:
    """Give the adapters' B, which begins at zero, values, so that all gradients differ from zero."""
    torch.manual_seed(1)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)


def test_loss_is_of_each_token_after_those_before_it(checkpoint: Path) -> None:
    """The tokens' losses equal the logits of transformers for the answer so far, computed token by token."""
    batch, model = _encoder(checkpoint).batch(EXAMPLES[1:2]), _model(checkpoint)
    labels = batch.labels[0]
    assert labels[0] == 0
    assert labels[-1] == 2  # <s> … </s>
    image = torch.full((1, IMAGE_TOKENS), model.config.image_token_id)
    given = [2]
    expected = []
    with torch.inference_mode():
        for label in labels:
            logits = model(
                pixel_values=batch.pixels,
                input_ids=torch.cat([image, batch.prompts], dim=1),
                decoder_input_ids=torch.tensor([given]),
            ).logits[0, -1]
            expected.append(-float(torch.log_softmax(logits, dim=0)[label]))
            given.append(int(label))
        assert token_losses(model, batch).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_padding_has_no_influence(checkpoint: Path) -> None:
    encoder, model = _encoder(checkpoint), _model(checkpoint)
    with torch.inference_mode():
        together = token_losses(model, encoder.batch(EXAMPLES))
        alone = torch.cat([token_losses(model, encoder.batch([example])) for example in EXAMPLES])
    assert torch.allclose(together, alone, atol=1e-4)
    assert (encoder.batch(EXAMPLES).labels == IGNORED).any()


@pytest.mark.parametrize("settings", [{}, {"vision": True}, {"full": True}, {"full": True, "vision": True}], ids=str)
def test_only_the_stated_weights_change(checkpoint: Path, settings: dict[str, Any]) -> None:
    trainer = _trainer(checkpoint, **settings)
    before = {name: weights.clone() for name, weights in trainer.model.named_parameters()}
    trainer.step(EXAMPLES)
    trainer.step(EXAMPLES)
    changed = {name for name, weights in trainer.model.named_parameters() if not torch.equal(weights, before[name])}
    assert changed
    assert any("language_model.decoder" in name for name in changed)
    assert any("vision_tower" in name for name in changed) == settings.get("vision", False)
    assert any("lora" in name for name in changed) != settings.get("full", False)
    assert changed <= trainer.trained.keys()


@pytest.mark.parametrize("tied", [True, False])
def test_merged_adapters_answer_as_unmerged(tmp_path: Path, tied: bool) -> None:
    folder = build_checkpoint(tmp_path / "small", tied=tied)
    model = prepared(_model(folder), TrainingSettings(rank=4, vision=True))
    _fill_adapters(model)
    batch = _encoder(folder).batch(EXAMPLES)
    with torch.inference_mode():
        unmerged = token_losses(plain(model), batch)
        one = merged(model)
        assert torch.allclose(token_losses(one, batch), unmerged, atol=1e-5, rtol=1e-5)
        assert (one.lm_head.weight is one.get_input_embeddings().weight) == tied


class Killed(Exception):
    pass


@pytest.mark.parametrize("full", [True, False])
def test_killed_run_resumes_to_equal_weights(checkpoint: Path, tmp_path: Path, full: bool) -> None:
    def stop_after(lines: int) -> Callable[[str], None]:
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            if len(told) == lines:
                raise Killed

        return tell

    whole = _trainer(checkpoint, full=full, patience=100)
    whole.run(lambda line: None)
    state = tmp_path / "run.state"
    for lines in (2, 2):  # the first comparison saves, the second kills before it saves
        with pytest.raises(Killed):
            _trainer(checkpoint, full=full, patience=100).run(stop_after(lines), state)
    resumed = _trainer(checkpoint, full=full, patience=100)
    resumed.run(lambda line: None, state)
    assert resumed.progress == whole.progress
    assert all(torch.equal(weights, whole.trained[name]) for name, weights in resumed.trained.items())


def test_state_of_another_run_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    _trainer(checkpoint).save(tmp_path / "run.state")
    with pytest.raises(ConfigError, match="other settings or examples"):
        _trainer(checkpoint, seed=1).resume(tmp_path / "run.state")
    (tmp_path / "run.state").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="no state of a training run"):
        _trainer(checkpoint).resume(tmp_path / "run.state")


def test_run_ends_when_held_out_loss_rises(checkpoint: Path) -> None:
    """The held-out answer contradicts the examples, so training on them makes it less likely."""
    examples = [Example(f"{seed}.png", "caption", Answer(text="two people")) for seed in range(4)]
    trainer = _trainer(checkpoint, examples, epochs=50, rate=0.05)
    trainer.run(lambda line: None)
    progress = trainer.progress
    assert progress.worse == 2
    assert progress.step < trainer.steps
    # The weights are those of the best comparison.
    assert trainer.loss(HELD_OUT) == pytest.approx(progress.best, rel=1e-5)


def test_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    orders = [epoch(EXAMPLES, 2, 0, number) for number in range(6)]
    for order in orders:
        assert sorted(example.image + example.task for batch in order for example in batch) == sorted(
            example.image + example.task for example in EXAMPLES
        )
    assert len({str(order) for order in orders}) > 1
    assert epoch(EXAMPLES, 2, 0, 3) == orders[3]


@pytest.mark.timeout(600)  # 5 s on an idle core
def test_trained_checkpoint_answers_what_it_learned(checkpoint: Path, tmp_path: Path) -> None:
    """A whole run by the files: the new folder is a checkpoint, and its answers are those of the examples."""
    files, out = open_folder(str(checkpoint)), tmp_path / "trained"
    examples = [Example(f"{seed}.png", "caption", Answer(text="a yellow house")) for seed in range(6)]
    settings = TrainingSettings(full=True, vision=True, epochs=40, batch=6, rate=0.01, patience=40)
    told: list[str] = []
    record = train(files, out, settings, examples, HELD_OUT, _read, told.append, "cpu")
    assert record["best"] < 0.05 < record["held_out_loss_before"]
    assert record == json.loads((out / RECORD).read_text()) | {"held_out": record["held_out"]}
    assert not out.with_name("trained.state").exists()
    assert "6 examples, 1 held out" in told[0]
    assert re.fullmatch(r"at most \d+ min and \d+\.\d GB of memory", told[1])
    engine = pipeline.open(Florence2Settings(checkpoint=str(out), device="cpu", dtype="float32"))
    engine.admit([make_job("caption", make_image(9), max_tokens=20)])
    results: list[Result] = []
    while not results:
        results = engine.step()
    assert results[0].answer.text == "a yellow house"
    with pytest.raises(ConfigError, match="exists: name a new folder"):
        train(files, out, settings, examples, HELD_OUT, _read, told.append, "cpu")


def test_shortage_of_memory_is_refused_before_training(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "available", lambda _: 1_000_000)
    told: list[str] = []
    files, out = open_folder(str(checkpoint)), tmp_path / "trained"
    with pytest.raises(ConfigError, match=r"training needs \d+\.\d+ GB more memory, and 0\.00 GB are free: --batch 1"):
        train(files, out, TrainingSettings(full=True), EXAMPLES, HELD_OUT, _read, told.append, "cpu")
    assert not list(tmp_path.iterdir())
    assert len(told) == 1, "no step was made"


def test_missing_folder_is_refused_before_training(checkpoint: Path, tmp_path: Path) -> None:
    told: list[str] = []
    files, out = open_folder(str(checkpoint)), tmp_path / "missing" / "trained"
    with pytest.raises(ConfigError, match=r"trained: cannot be written: No such file or directory"):
        train(files, out, TrainingSettings(), EXAMPLES, HELD_OUT, _read, told.append, "cpu")
    assert told == []


def test_full_disk_ends_the_training_with_the_free_space(checkpoint: Path, tmp_path: Path) -> None:
    files, out = open_folder(str(checkpoint)), tmp_path / "trained"
    out.with_name("trained.state.new").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"trained: cannot be written: \d+\.\d MB are free on its disk"):
        train(files, out, TrainingSettings(epochs=1), EXAMPLES, HELD_OUT, _read, lambda _: None, "cpu")


def test_pictures_are_composed_of_the_examples_but_not_of_the_rehearsed_ones(checkpoint: Path, tmp_path: Path) -> None:
    def read(name: str) -> Any:
        image = np.full((60, 80, 3), 90, np.uint8)
        left = int(name.removesuffix(".png"))
        image[10:30, left : left + 20] = (40, 40, 230)
        return image

    boxes = {n: (Box(n / 80, 10 / 60, (n + 20) / 80, 0.5, "red"),) for n in range(2, 50)}
    examples = [Example(str(n), "object_detection", Answer(boxes=boxes[n])) for n in range(2, 50)]
    told: list[str] = []
    settings = TrainingSettings(full=True, epochs=1, batch=16, composed=2)
    files, out = open_folder(str(checkpoint)), tmp_path / "trained"
    record = train(files, out, settings, examples[:12], HELD_OUT, read, told.append, "cpu", examples[12:])
    assert told[0] == "24 pictures of each epoch are composed of 12"
    assert record["examples"] == {"object_detection": 12 + 24 + 36}


@pytest.mark.parametrize("settings", [{"full": True, "vision": True}, {"full": True}, {}], ids=str)
def test_rehearsal_keeps_the_probabilities_before_training(checkpoint: Path, settings: dict[str, Any]) -> None:
    """One step's loss and gradients, beside those by hand; a rehearsed example alone has no gradient before it."""
    rehearsed = [Example("5.png", "caption", Answer(text="a green house")), EXAMPLES[3]]
    together = [EXAMPLES[0], rehearsed[0], EXAMPLES[2], rehearsed[1]]
    before, trainer = (
        _model(checkpoint).eval(),
        _trainer(checkpoint, EXAMPLES[:3], rehearsed, augment=False, **settings),
    )
    encoder = _encoder(checkpoint)
    kept = torch.cat([token_logits(before, encoder.batch([one])).softmax(-1) for one in rehearsed]).detach()
    for step in range(3):
        model = plain(trainer.model).eval()
        for weights in trainer.trained.values():
            weights.grad = None
        right = torch.cat([token_losses(model, encoder.batch([one])) for one in (EXAMPLES[0], EXAMPLES[2])])
        now = torch.cat([token_logits(model, encoder.batch([one]), True) for one in rehearsed]).log_softmax(-1)
        losses = trainer._rehearsal.losses(*trainer._logits(together), together)
        expected = torch.cat([-(kept * now).sum(-1), right])
        assert losses.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
        losses[: len(kept)].mean().backward()
        steepest = max(
            float(weights.grad.abs().max()) for weights in trainer.trained.values() if weights.grad is not None
        )
        assert (steepest < 1e-4) == (step == 0)
        trainer.step(together)


def test_too_long_answer_is_refused_before_training(checkpoint: Path) -> None:
    long = Example("1.png", "caption", Answer(text="two people " * 100))
    with pytest.raises(ConfigError, match=r"1.png: the answer of caption has more than 128 tokens"):
        _trainer(checkpoint, [long])

"""One training run: from a checkpoint and files of examples to a new checkpoint folder."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.examples import Example
from pipelines.florence2.finetune.adapter import merged
from pipelines.florence2.finetune.batches import Encoder, ReadPicture, RunExamples
from pipelines.florence2.finetune.compose import ComposedPictures
from pipelines.florence2.finetune.settings import TrainingSettings
from pipelines.florence2.finetune.trainer import Trainer
from pipelines.florence2.transformers_model import load_model
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.printable import counted

RECORD = "training.json"
"""File in the new checkpoint's folder with its origin."""
CACHED_PICTURES = 512
"""Decoded pictures that are kept in memory."""


def train(
    files: CheckpointFiles,
    out: Path,
    settings: TrainingSettings,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    read: ReadPicture,
    tell: Callable[[str], None],
    device: str = "auto",
    rehearsed: Sequence[Example] = (),
) -> Mapping[str, Any]:
    """Train a checkpoint, write the result into the new folder `out` and return its record.

    `rehearsed`: further examples, of what the model must not forget; no pictures are composed of theirs. The model
    keeps the probabilities that it has for their answers before training.

    An interrupted run continues from `out` with the suffix `.state` to the same result. Raises ConfigError, also
    when a file cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: name a new folder for the trained checkpoint")
    state = out.with_name(out.name + ".state")
    probe = out.with_name(out.name + ".new")  # a missing folder is found before the training
    with _writing(out):
        if not probe.exists():
            probe.mkdir()
            probe.rmdir()
    checkpoint = load(files, device, "float32")
    place = checkpoint.weights.device
    model = load_model(files, checkpoint.weights.is_tied, torch.float32, place)
    made = ComposedPictures(examples, lru_cache(CACHED_PICTURES)(read), settings.composed, settings.seed)
    if settings.composed:
        tell(f"{settings.composed * made.pictures} pictures of each epoch are composed of {made.pictures}")
    used = RunExamples(examples, held_out, rehearsed, made.of_epoch)
    trainer = Trainer(model, Encoder(checkpoint, made.read), settings, used, place)
    share = sum(weights.numel() for weights in trainer.trained.values()) / sum(w.numel() for w in model.parameters())
    counts = f"{counted(len(trainer.first), 'example')}, {len(held_out)} held out, {counted(trainer.steps, 'step')}"
    tell(f"{counts}; {share:.1%} of the weights change")
    pictures = min(CACHED_PICTURES, len({one.image for one in (*examples, *rehearsed, *held_out)}))
    seconds, memory = trainer.try_largest(pictures * made.read(examples[0].image).nbytes)
    tell(f"at most {math.ceil(trainer.steps * seconds / 60)} min and {memory / 1e9:.1f} GB of memory")
    before = trainer.loss(held_out)
    tell(f"before training: held-out loss {before:.4f}")
    with _writing(out):
        trainer.run(tell, state)
    record = {
        "base": files.name,
        "base_digest": files.digest(),
        "settings": settings.model_dump(),
        "examples": dict(Counter(example.task for example in trainer.first)),
        "held_out": dict(Counter(example.task for example in held_out)),
        "held_out_loss_before": before,
        **asdict(trainer.progress),
    }
    with _writing(out):
        save(files, merged(trainer.model), out, record)
        state.unlink(missing_ok=True)
    return record


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Raise ConfigError where a file of a run cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None)
        if cause is None:  # torch, safetensors and shutil keep it to themselves
            cause = f"{shutil.disk_usage(out.absolute().parent).free / 1e6:.1f} MB are free on its disk"
        raise ConfigError(f"{out}: cannot be written: {cause}") from None


def save(files: CheckpointFiles, model: Any, out: Path, record: Mapping[str, Any]) -> None:
    """Write a checkpoint folder with the model's weights, in the number type of the base. Raises OSError."""
    temporary = out.with_name(out.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(files.path, temporary, ignore=shutil.ignore_patterns("*.safetensors*", RECORD))
    name = str(files.config.get("dtype") or files.config.get("torch_dtype") or "float32")
    model.to(getattr(torch, name.removeprefix("torch."))).save_pretrained(temporary)
    atomic_file.write(temporary / RECORD, json.dumps(record, indent=2) + "\n")
    temporary.rename(out)

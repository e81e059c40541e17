"""Makes an int8 model: calibration with NNCF, then the comparison with float32 on frames that it has not seen."""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8 import store
from pipelines.florence2.int8.answers import Answers, answer
from pipelines.florence2.int8.engine import build_engine
from pipelines.florence2.int8.gate import Agreement
from pipelines.florence2.int8.report import lines
from pipelines.florence2.openvino.graphs import trace_encoder, trace_vision
from pipelines.florence2.openvino.library import load, openvino
from pipelines.florence2.prompts import prompt_texts
from streamer.core.errors import ConfigError
from streamer.types import Image, Job

log = logging.getLogger(__name__)

Tell = Callable[[str], None]
OpenEngine = Callable[[dict[str, Any]], Any]
"""Opens an engine with some changed settings."""

INSTALL = "pip install 'florence-streamer[quantize]'"

NOT_QUANTIZED = ("GroupConvolution",)
"""Operations that stay in floating-point. Depthwise convolutions have one weight matrix per channel and few products,
so int8 costs accuracy and saves no time."""
MAX_PROMPTS = 128
"""Prompts with which the text encoder is calibrated."""
_COMMON = {"device": "cpu", "backend": "torch", "engine": "fast", "drafts": "off", "max_batch": 1, "int8": "off"}
REFERENCE = {**_COMMON, "dtype": "float32"}
"""Settings of the engine with which the int8 model is compared."""
CANDIDATE = _COMMON


def quantize(
    checkpoint: str | None,
    files: CheckpointFiles,
    open_engine: OpenEngine,
    calibration: Sequence[Job],
    held_out: Sequence[Job],
    floor: float,
    tell: Tell,
) -> bool:
    """Make, compare and store the int8 model of a checkpoint; return whether a task passed.

    Nothing is stored before the comparison is done. Raises ConfigError when a package or frames are missing, or the
    checkpoint cannot be used.
    """
    nncf = nncf_package()
    calibration, held_out = _usable(calibration), _usable(held_out)
    if not calibration or not held_out:
        raise ConfigError("no task to compare: tasks with `quality: official` stay in float32")
    folder = store.folder_of(checkpoint)
    engine: FastEngine = open_engine(REFERENCE)
    tell(f"float32: {engine.model} answers {len(held_out)} jobs on held-out frames")
    reference = answer(engine, held_out, "float32", tell)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.new-", dir=folder.parent))
    except OSError as error:
        raise ConfigError(f"cannot write the int8 model to {folder}: {error.strerror}") from None
    try:
        models = make_models(nncf, engine, calibration, work, tell)
        del engine
        gc.collect()  # one engine at a time is in memory
        candidate = build_engine(open_engine(CANDIDATE), models)
        tell(f"int8: {candidate.model} answers the same jobs")
        int8 = answer(candidate, held_out, "int8", tell)
        agreements = _compare(held_out, reference, int8)
        report: dict[str, Any] = {
            "checkpoint": files.name,
            "key": store.content_key(files),
            "dtype": str(candidate.decoder.dtype)[6:],
            "engine": candidate.description,
            "frames": {"calibration": len(_images(calibration)), "held_out": len(_images(held_out))},
            "frame_s": {"float32": round(reference.frame_s, 4), "int8": round(int8.frame_s, 4)},
            "floor": floor,
            "tasks": {name: agreement.row(floor) for name, agreement in agreements.items()},
        }
        passed = any(row["passed"] for row in report["tasks"].values())
        store.write(folder, models if passed else {}, report)
    except OSError as error:
        raise ConfigError(f"cannot write the int8 model to {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for line in lines(report, folder / store.REPORT):
        tell(line)
    return passed


def nncf_package() -> Any:
    """Return the package. Raises ConfigError with the command that installs it."""
    with _quiet():
        package = load("nncf", "`streamer model quantize`", INSTALL)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return package


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore warnings: those of tracing and of NNCF are for their own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _usable(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.due.task.params.quality == "fast"]


def make_models(nncf: Any, engine: FastEngine, jobs: Sequence[Job], folder: Path, tell: Tell) -> dict[str, Path]:
    """Return the int8 models as files in `folder`."""
    images = _images(jobs)
    vision, encoder = engine.image_cache.vision, engine.encoder
    assert isinstance(vision, DaViT)  # REFERENCE names the backend torch
    assert isinstance(encoder, Encoder)

    def pixels(image: Image) -> Tensor:
        return engine.image_cache.preprocess(image)[None]

    prompts = list(_embedded(engine, jobs))
    with _quiet():
        height, width = pixels(images[0]).shape[2:]
        graphs = trace_vision(vision, height, width), trace_encoder(encoder, vision.tokens)
    work: list[tuple[str, Any, Sequence[Any], Callable[[Any], Any]]] = [
        ("vision", graphs[0], images, lambda image: pixels(image).numpy()),
        ("encoder", graphs[1], prompts, lambda x: x.numpy()),
    ]
    made = {}
    for name, traced, samples, transform in work:
        started = time.monotonic()
        tell(f"calibrating the {name} with {len(samples)} {'frames' if name == 'vision' else 'prompts'}")
        made[name] = folder / f"{name}.xml"
        openvino().save_model(_calibrated(nncf, traced, samples, transform), str(made[name]), compress_to_fp16=False)
        tell(f"calibrated the {name} in {time.monotonic() - started:.0f} s")
    return made


def _calibrated(nncf: Any, model: Any, samples: Sequence[Any], transform: Callable[[Any], Any]) -> Any:
    """Return the model with int8 products; the scales are those of the samples."""
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(samples, transform),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            fast_bias_correction=True,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(types=list(NOT_QUANTIZED), validate=False),
        )


def _images(jobs: Sequence[Job]) -> list[Image]:
    return list({id(job.frame.image): job.frame.image for job in jobs}.values())


@torch.inference_mode()
def _embedded(engine: FastEngine, jobs: Sequence[Job]) -> Iterator[Tensor]:
    """Yield the encoder's input (1, positions, width) for some jobs, spread over all frames and tasks."""
    step = max(1, -(-len(jobs) // MAX_PROMPTS))
    step += step > 1 and step % 2 == 0  # an odd step also visits every task of an even number
    for job in jobs[::step]:
        (image,) = engine.image_cache([job.frame])
        prompt = prompt_texts(job.due.task.task, job.due.task.params)[0]
        yield engine.encoder.embed(image, engine.processor.prompt_ids(prompt))[None].clone()


def _compare(jobs: Sequence[Job], reference: Answers, int8: Answers) -> dict[str, Agreement]:
    """Return the agreement by task."""
    found: dict[str, Agreement] = {}
    for job, expected, answered in zip(jobs, reference.generated, int8.generated, strict=True):
        task = job.due.task.task
        found.setdefault(task, Agreement(task)).add(expected, answered)
    return found

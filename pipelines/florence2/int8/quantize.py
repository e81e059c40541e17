"""Makes an int8 model: calibration with NNCF, then the comparison with float32 on frames that it has not seen."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8 import store
from pipelines.florence2.int8.answers import answers
from pipelines.florence2.int8.engine import build_engine
from pipelines.florence2.int8.gate import Agreement, Generated
from pipelines.florence2.int8.report import lines
from pipelines.florence2.int8.speed import compare_parts, compare_speed
from pipelines.florence2.openvino.graphs import convert
from pipelines.florence2.openvino.library import load, openvino
from pipelines.florence2.prompts import prompt_texts
from streamer.core.errors import ConfigError
from streamer.core.work_folder import work_folder
from streamer.types import Image, Job

log = logging.getLogger(__name__)

Tell = Callable[[str], None]
OpenEngine = Callable[[dict[str, Any]], Any]
"""Opens an engine with some changed settings."""

INSTALL = "pip install 'florence-streamer[quantize]'"

NOT_QUANTIZED = ("GroupConvolution",)
"""Operations that stay in floating-point. Depthwise convolutions have one weight matrix per channel and few products,
so int8 costs accuracy and saves no time."""
CANDIDATES = ("vision", "encoder"), ("vision",)
"""Models that are tried together, the fastest first. The encoder in int8 saves less time than the vision tower; on the
shipped model it causes half of the differences."""
MAX_PROMPTS = 128
"""Prompts with which the text encoder is calibrated."""
USUAL = {"device": "cpu", "engine": "fast", "drafts": "off", "max_batch": 1, "int8": "off"}
"""Settings of the engine that runs the tasks without int8, in the number type and backend of the config."""
REFERENCE = {**USUAL, "backend": "torch", "dtype": "float32"}
"""Settings of the engine with whose answers those of the int8 model are compared."""


def quantize(
    checkpoint: str | None,
    files: CheckpointFiles,
    open_engine: OpenEngine,
    collect: Callable[[], tuple[Sequence[Job], Sequence[Job]]],
    floor: float,
    tell: Tell,
) -> bool:
    """Make, compare and store the int8 model of a checkpoint; return whether a task passed.

    `collect` returns jobs for calibration and held-out ones. Nothing is stored before the comparison is done. Raises
    ConfigError when a package or frames are missing, or the checkpoint cannot be used.
    """
    nncf = nncf_package()
    folder = store.folder_of(checkpoint)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with work_folder(folder.parent) as work:
            calibration, held_out = map(_usable, collect())
            if not calibration or not held_out:
                raise ConfigError("no task to compare: tasks with `quality: official` stay in float32")
            models = make_models(nncf, open_engine(REFERENCE), files, calibration, work, tell)
            gc.collect()  # frees each engine before the next one is opened
            judgement = _judge(open_engine, models, held_out, floor, tell)
            frames = {"calibration": len(_images(calibration)), "held_out": len(_images(held_out))}
            report: dict[str, Any] = {
                "checkpoint": files.name,
                "key": store.content_key(files),
                "processor": store.processor_key(),
                "frames": frames,
                "floor": floor,
                **judgement.report,
            }
            passed = any(row["passed"] for row in report["tasks"].values())
            store.write(folder, judgement.models if passed else {}, report)
    except OSError as error:
        raise ConfigError(f"cannot write the int8 model to {folder}: {error.strerror}") from None
    for line in lines(report, folder / store.REPORT):
        tell(line)
    return passed


class _Judgement(NamedTuple):
    """The models to use, and what the report says on them: engines, parts, tasks."""

    models: Mapping[str, Path]
    report: dict[str, Any]


def _judge(
    open_engine: OpenEngine, models: Mapping[str, Path], held_out: Sequence[Job], floor: float, tell: Tell
) -> _Judgement:
    """Return the models of the parts that are faster in int8, and how the answers with them compare."""
    usual: FastEngine = open_engine(USUAL)
    parts = compare_parts(usual, build_engine(usual, models))
    report: dict[str, Any] = {
        "dtype": str(usual.decoder.dtype)[6:],
        "usual": usual.description,
        "engine": "none",
        "parts": {name: speed.row() for name, speed in parts.items()},
        "tasks": {},
    }
    for name, speed in parts.items():
        tell(f"{name}: {1000 * speed.int8_s:.0f} ms in int8, {1000 * speed.usual_s:.0f} ms without")
    if refusal := parts["vision"].refusal:
        # The vision tower is most of an answer. Without it there is nothing to compare.
        row = {"passed": False, "reason": f"the vision tower stays as it is on this computer: {refusal}"}
        return _Judgement({}, report | {"tasks": {job.due.task.task: row for job in held_out}})
    del usual
    gc.collect()
    reference = _reference(open_engine(REFERENCE), held_out, tell)
    gc.collect()
    usual = open_engine(USUAL)
    faster = {name: file for name, file in models.items() if parts[name].refusal is None}
    best = _best_candidate(usual, faster, held_out, reference, floor, tell)
    for task, agreement in best.agreements.items():
        row = agreement.row(floor)
        if row["passed"]:
            row |= compare_speed(usual, best.engine, [job for job in held_out if job.due.task.task == task]).row()
        report["tasks"][task] = row
    return _Judgement(best.models, report | {"engine": best.engine.description})


def _reference(engine: FastEngine, held_out: Sequence[Job], tell: Tell) -> list[Generated]:
    tell(f"float32: {engine.model} answers {len(held_out)} jobs on held-out frames")
    return answers(engine, held_out, "float32", tell)


class _Candidate(NamedTuple):
    """An engine with some int8 models, and how its answers agree with the reference, by task."""

    engine: FastEngine
    models: Mapping[str, Path]
    agreements: Mapping[str, Agreement]

    def refused(self, floor: float) -> int:
        return sum(agreement.refusal(floor) is not None for agreement in self.agreements.values())


def _best_candidate(
    usual: FastEngine,
    models: Mapping[str, Path],
    held_out: Sequence[Job],
    reference: Sequence[Generated],
    floor: float,
    tell: Tell,
) -> _Candidate:
    """Return the int8 engine in which most tasks pass: with all models, else with the vision tower alone."""
    candidates: list[_Candidate] = []
    for names in dict.fromkeys(tuple(name for name in names if name in models) for names in CANDIDATES):
        chosen = {name: models[name] for name in names}
        engine, title = build_engine(usual, chosen), f"int8 {' and '.join(names)}"
        tell(f"{title}: {engine.model} answers the same jobs")
        agreements = compare(held_out, reference, answers(engine, held_out, title, tell))
        candidates.append(_Candidate(engine, chosen, agreements))
        if not candidates[-1].refused(floor):
            break
    return min(candidates, key=lambda candidate: candidate.refused(floor))


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


def make_models(
    nncf: Any, engine: FastEngine, files: CheckpointFiles, jobs: Sequence[Job], folder: Path, tell: Tell
) -> dict[str, Path]:
    """Return the int8 models as files in `folder`."""
    images = _images(jobs)
    vision, encoder = engine.image_cache.vision, engine.encoder
    assert isinstance(vision, DaViT)  # REFERENCE names the backend torch
    assert isinstance(encoder, Encoder)

    def pixels(image: Image) -> Tensor:
        return engine.image_cache.preprocess(image)[None]

    prompts = list(_embedded(engine, jobs))
    samples: dict[str, tuple[Sequence[Any], Callable[[Any], Any]]] = {
        "vision": (images, lambda image: pixels(image).numpy()),
        "encoder": (prompts, lambda x: x.numpy()),
    }
    made = {}
    for name, traced in convert(vision, encoder, files.images):
        started = time.monotonic()
        tell(f"calibrating the {name} with {len(samples[name][0])} {'frames' if name == 'vision' else 'prompts'}")
        made[name] = folder / f"{name}.xml"
        openvino().save_model(_calibrated(nncf, traced, *samples[name]), str(made[name]), compress_to_fp16=False)
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
            ignored_scope=nncf.IgnoredScope(_first_convolution(model), types=list(NOT_QUANTIZED), validate=False),
        )


def _first_convolution(model: Any) -> list[str]:
    """Return the name of the convolution that reads the pixels; empty for a model without one.

    On the shipped model, rounding the pixels causes 43 % of the vision tower's error (in squares), the next one of 36
    inputs 10 %. The layer has 3 input channels, so it costs little in floating-point.
    """
    names = (op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    return list(islice(names, 1))


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


def compare(jobs: Sequence[Job], reference: Sequence[Generated], int8: Sequence[Generated]) -> dict[str, Agreement]:
    """Return the agreement by task."""
    found: dict[str, Agreement] = {}
    for job, expected, answered in zip(jobs, reference, int8, strict=True):
        task = job.due.task.task
        found.setdefault(task, Agreement(task)).add(expected, answered)
    return found

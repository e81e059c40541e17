"""The engine of a checkpoint with an int8 model: each task runs in int8 if it passed, else in the usual engine."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.image_cache import ImageCache
from pipelines.florence2.int8 import store
from pipelines.florence2.int8.weights import with_int8_weights
from pipelines.florence2.openvino.compiled import OpenVINOEncoder, OpenVINOVision
from pipelines.florence2.openvino.library import INSTALL, load
from pipelines.florence2.openvino.self_check import difference
from pipelines.florence2.openvino.trial import Trial
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of
from streamer.types import Engine, Job, Result

log = logging.getLogger(__name__)


TOLERANCE = 0.5
"""Largest relative difference to the usual engine at start. int8 differs by about 4 % on random weights, wrong kernels
by 100 %; whether the answers are good enough was decided by `streamer model quantize`."""


def build_engine(usual: FastEngine, models: Mapping[str, Path], tolerance: float = math.inf) -> FastEngine:
    """Return a second engine with int8 models (`vision`, and maybe `encoder`) and decoder. All else is shared.

    Raises ConfigError when the models do not run, or they differ by more than `tolerance`.
    """
    dtype, cache, encoder = usual.decoder.dtype, usual.image_cache, usual.encoder
    try:
        vision = OpenVINOVision(models["vision"], "CPU", cache.vision, dtype)
        if "encoder" in models:
            encoder = OpenVINOEncoder(models["encoder"], "CPU", usual.encoder, dtype)
        reason = difference(usual, vision, encoder, tolerance)
    # OpenVINO raises various exceptions, and a damaged model may have any shape.
    except Exception as error:
        raise ConfigError(f"OpenVINO does not run it, {reason_of(error, 'OpenVINO')}") from None
    if reason:
        raise ConfigError(f"it does not work on this computer: {reason}")
    decoder = with_int8_weights(usual.decoder)
    weights = "int8 weights" if decoder else f"decoder in {str(dtype)[6:]}"
    engine = copy.copy(usual)
    engine.description = f"fast engine on cpu, int8 {' and '.join(models)} through OpenVINO, {weights}"
    engine.warnings = []
    engine.decoder, engine.encoder = decoder or usual.decoder, encoder
    engine.image_cache = ImageCache(vision, cache.preprocess, usual.decoder.device, dtype)
    engine.allocate(usual.room, usual.runner)
    engine.warm_up()
    return engine


def with_int8(usual: FastEngine, found: store.Int8Model, files: CheckpointFiles) -> PassedTasksEngine:
    """Return the engine with the tasks that passed in int8. Raises ConfigError with why the model cannot be used."""
    load("openvino", "the int8 model", INSTALL)
    dtype = str(usual.decoder.dtype)[6:]
    if found.dtype != dtype:
        raise ConfigError(f"it was compared with {found.dtype}, the model runs in {dtype}; {store.REPEAT}")
    if refusal := Trial(found.files["vision"], "CPU", dtype).refusal(files, found.files):
        raise ConfigError(f"OpenVINO does not run it, {refusal}")
    return PassedTasksEngine(build_engine(usual, found.files, TOLERANCE), found.tasks, usual)


class PassedTasksEngine:
    """Runs the tasks that passed in int8, and all others in the usual engine."""

    def __init__(self, int8: Engine, tasks: frozenset[str], usual: Engine) -> None:
        self._int8, self._tasks, self._usual = int8, tasks, usual
        self._told: set[str] = set()
        """Tasks of which the log says that they run without int8."""

    @property
    def model(self) -> str:
        return self._int8.model

    @property
    def description(self) -> str:
        return f"{self._int8.description}, for {', '.join(sorted(self._tasks))}; else {self._usual.description}"

    @property
    def warnings(self) -> Sequence[str]:
        return [*self._int8.warnings, *self._usual.warnings]

    def free(self) -> int:
        return min(self._int8.free(), self._usual.free())

    def admit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs for the next steps. Raises ValueError when there are more than `free()`."""
        for job in jobs:
            self._engine_of(job).admit([job])

    def step(self) -> list[Result]:
        """Make some progress in both engines; return the jobs that have finished."""
        return [*self._int8.step(), *self._usual.step()]

    def _engine_of(self, job: Job) -> Engine:
        task = job.due.task
        if task.task in self._tasks and task.params.quality == "fast":
            return self._int8
        if task.task not in self._told:
            self._told.add(task.task)
            log.info("task %s runs without int8: it was not compared, or did not pass", task.task)
        return self._usual

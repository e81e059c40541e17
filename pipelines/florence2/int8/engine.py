"""The engine of a checkpoint with an int8 model: each task runs in int8 if it passed, else in the usual engine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8.store import find
from pipelines.florence2.int8.weights import use_int8_weights
from pipelines.florence2.openvino.compiled import OpenVINOEncoder, OpenVINOVision
from pipelines.florence2.openvino.self_check import difference
from streamer.core.errors import ConfigError
from streamer.types import Engine, Job, Result

log = logging.getLogger(__name__)


TOLERANCE = 0.5
"""Largest relative difference to the usual engine at start. int8 differs by about 4 % on random weights, wrong kernels
by 100 %; whether the answers are good enough was decided by `streamer model quantize`."""


def build_engine(engine: FastEngine, models: Mapping[str, Path], tolerance: float = math.inf) -> FastEngine:
    """Return the engine with its vision tower, encoder and decoder replaced by int8 ones.

    Raises ConfigError when OpenVINO is missing, the models do not run, or they differ by more than `tolerance`.
    """
    dtype, cache = engine.decoder.dtype, engine.image_cache
    try:
        vision = OpenVINOVision(models["vision"], "CPU", cache.vision, dtype)
        encoder = OpenVINOEncoder(models["encoder"], "CPU", engine.encoder, dtype)
    except (RuntimeError, KeyError) as error:  # OpenVINO's errors, and a report without the models
        log.debug("int8 model of %s", engine.model, exc_info=error)
        raise ConfigError(f"the int8 model of {engine.model} does not run in this version of OpenVINO") from None
    if reason := difference(engine, vision, encoder, tolerance):
        raise ConfigError(f"the int8 model of {engine.model} does not work on this computer: {reason}")
    cache.vision, engine.encoder = vision, encoder
    cache.clear()
    weights = "int8 weights" if use_int8_weights(engine.decoder) else f"decoder in {str(dtype)[6:]}"
    engine.description = f"fast engine on cpu, int8 through OpenVINO, {weights}"
    engine.warm_up()
    return engine


def with_int8(
    engine: FastEngine, checkpoint: str | None, files: CheckpointFiles, open_other: Callable[[], Engine]
) -> Engine:
    """Return the engine; if the checkpoint has an int8 model that fits, with the tasks that passed in int8.

    `open_other` opens the same engine again, for the tasks that did not pass.
    """
    found = find(checkpoint, files)
    if found is None or engine.decoder.device.type != "cpu":
        return engine
    dtype = str(engine.decoder.dtype)[6:]
    if found.dtype != dtype:
        log.warning("int8 model of %s not used: it was compared with %s, not %s", engine.model, found.dtype, dtype)
        return engine
    try:
        return PassedTasksEngine(build_engine(engine, found.files, TOLERANCE), found.tasks, open_other)
    except ConfigError as error:
        log.warning("int8 model of %s not used: %s", engine.model, error)
        return open_other()


class PassedTasksEngine:
    """Runs the tasks that passed in int8, and all others in an engine that is opened at the first of them."""

    def __init__(self, int8: Engine, tasks: frozenset[str], open_other: Callable[[], Engine]) -> None:
        self._int8, self._tasks, self._open_other = int8, tasks, open_other
        self._other: Engine | None = None

    @property
    def model(self) -> str:
        return self._int8.model

    @property
    def description(self) -> str:
        return f"{self._int8.description}, for {', '.join(sorted(self._tasks))}"

    @property
    def warnings(self) -> Sequence[str]:
        return [warning for engine in self._engines() for warning in engine.warnings]

    def free(self) -> int:
        return min(engine.free() for engine in self._engines())

    def admit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs for the next steps. Raises ValueError when there are more than `free()`."""
        for job in jobs:
            self._engine_of(job).admit([job])

    def step(self) -> list[Result]:
        """Make some progress in both engines; return the jobs that have finished."""
        return [result for engine in self._engines() for result in engine.step()]

    def _engines(self) -> list[Engine]:
        return [self._int8] if self._other is None else [self._int8, self._other]

    def _engine_of(self, job: Job) -> Engine:
        task = job.due.task
        if task.task in self._tasks and task.params.quality == "fast":
            return self._int8
        if self._other is None:
            log.warning("task %s runs without int8: it was not compared with float32, or did not pass", task.task)
            self._other = self._open_other()
        return self._other

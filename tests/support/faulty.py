"""A pipeline whose engine hangs or dies on demand; agent processes find it by its installed entry point.

It has the tasks of Florence-2 and answers each job with a box around the whole picture.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.florence2.pipeline import pipeline as florence2
from streamer.core.errors import ConfigError
from streamer.core.model_name import model_name
from streamer.core.settings import Settings
from streamer.types import Answer, Box, Costs, Device, Job, Result, TaskSpec

ROOT = Path(__file__).parents[2]


class FaultySettings(Settings):
    """The `model:` block of the config."""

    checkpoint: str | None = None
    """File with JSON of further settings, which are those of this model."""
    hash: str | None = None
    max_batch: int = 8
    devices: int = 1
    """Number of devices, each with a process of its own."""
    loading: str | None = None
    """While this file exists, loading does not end."""
    step: float = 0.01
    """Seconds that a step takes."""
    hang: str | None = None
    """While this file exists, a step writes into it, never returns and holds the GIL."""
    poison: str | None = None
    """The process aborts in a step with a job that matches this regular expression: `stream/name/frame number`."""
    fails: str | None = None
    """While this file exists, loading raises."""
    missing: str | None = None
    """While this file exists, loading raises a ConfigError."""
    empty: bool = False
    """The model finds nothing."""
    errors: str | None = None
    """While this file exists, each answer is an error."""
    bytes: int = 0
    """Memory that loading takes, as it is predicted."""
    trace: str | None = None
    """File to which each step appends its jobs before they run, as a line of JSON."""

    @property
    def loaded(self) -> FaultySettings:
        """The settings with those of the checkpoint. Raises ConfigError."""
        try:
            return self if self.checkpoint is None else FaultySettings(**json.loads(Path(self.checkpoint).read_text()))
        except OSError as error:
            raise ConfigError(f"checkpoint {self.checkpoint} cannot be read: {error.strerror}") from None


class FaultyEngine:
    description = "a stand-in"
    warnings = ()

    def __init__(self, settings: FaultySettings, model: str = "faulty") -> None:
        self._settings, self.model = settings, model
        self._jobs: list[Job] = []

    def free(self) -> int:
        return self._settings.max_batch - len(self._jobs)

    def admit(self, jobs: Sequence[Job]) -> None:
        self._jobs += jobs

    def step(self) -> list[Result]:
        started, settings = time.monotonic(), self._settings
        jobs, self._jobs = self._jobs, []
        names = [f"{job.due.stream}/{job.due.task.name}/{job.frame.seq}" for job in jobs]
        if settings.trace is not None:
            with Path(settings.trace).open("a") as file:
                file.write(json.dumps(names) + "\n")
        if settings.hang is not None and (hang := Path(settings.hang)).exists():
            hang.write_text("hangs")
            ctypes.PyDLL(None).sleep(1_000_000)
        if settings.poison is not None and any(re.fullmatch(settings.poison, name) for name in names):
            os.abort()
        time.sleep(settings.step)
        took = time.monotonic() - started
        if settings.errors is not None and Path(settings.errors).exists():
            return [Result(job, "error", Answer(), "no answer", started, took, len(jobs)) for job in jobs]
        if settings.empty:
            return [Result(job, "empty", Answer(), None, started, took, len(jobs)) for job in jobs]
        answer = Answer(boxes=(Box(0, 0, 1, 1, "all"),))
        return [Result(job, "ok", answer, None, started, took, len(jobs)) for job in jobs]


class FaultyPipeline:
    settings: type[FaultySettings] = FaultySettings

    def tasks(self) -> Mapping[str, TaskSpec]:
        return florence2.tasks()

    def refuse(self, settings: FaultySettings, task: str, params: object) -> str | None:
        return None

    def devices(self, settings: FaultySettings) -> Sequence[Device]:
        return [Device(f"device {number}", settings) for number in range(settings.devices)]

    def costs(self, settings: FaultySettings) -> Costs:
        return Costs("nowhere", {})

    def identify(self, settings: FaultySettings) -> tuple[str, str]:
        content = settings.loaded.model_dump_json(exclude_unset=True)
        return Path(settings.checkpoint or "faulty").stem, hashlib.sha256(content.encode()).hexdigest()

    def memory(self, settings: FaultySettings) -> int:
        return settings.loaded.bytes

    def open(self, asked: FaultySettings, alive: Callable[[], None] = lambda: None) -> FaultyEngine:
        model, settings = "faulty", asked.loaded
        if asked.checkpoint is not None:
            name, found = self.identify(asked)
            model = model_name(name, found)
            if not found.startswith(asked.hash or ""):
                raise ConfigError(f"checkpoint {name} has another hash")
        while settings.loading is not None and Path(settings.loading).exists():
            time.sleep(0.02)
        if settings.fails is not None and Path(settings.fails).exists():
            raise RuntimeError("no device")
        if settings.missing is not None and Path(settings.missing).exists():
            raise ConfigError("no such checkpoint")
        return FaultyEngine(settings, model)


pipeline = FaultyPipeline()


def install(folder: Path, target: str = "tests.support.faulty:pipeline") -> dict[str, str]:
    """Write the package metadata; return the environment in which `target` is the installed pipeline."""
    metadata = folder / "faulty-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[streamer.pipelines]\nflorence2 = {target}\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def config(folder: Path, streams: Mapping[str, Any], model: Mapping[str, Any], **more: Any) -> Path:
    """Write a config file with a JSON Lines sink at `folder/events.jsonl`, unless `more` has other sinks."""
    folder.mkdir(parents=True, exist_ok=True)
    sinks = [{"kind": "jsonl", "path": str(folder / "events.jsonl")}]
    file = folder / "home.yaml"
    file.write_text(json.dumps({"sinks": sinks, "model": model, "streams": streams, **more}))  # JSON is YAML
    return file

"""Tasks with `changes` on held-out toy scenes with the shipped model: `python -m benchmarks.changes`.

- still: results of a scene in which nothing moves, with sensor noise and changing light, in 10 simulated minutes, and
  the number of scenes with any result after the first.
- events: an object of a still scene appears and disappears; the share that is reported within two intervals, and the
  number of other results. Ten answers lie between two events.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from itertools import count, islice
from typing import Any

# As in the pipeline, before torch is imported: idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.accuracy import FIRST_SEED, HEIGHT, WIDTH
from benchmarks.report import merge
from benchmarks.shipped import run
from pipelines.florence2.pipeline import pipeline
from streamer.config.model import from_mapping
from streamer.events.result_data import EventChanges
from streamer.inference.content_changes import ContentChanges
from streamer.toyworld.world import LARGE, Difficulty, Thing, World
from streamer.types import DueTask, Engine, Frame, Job

TASKS = ("caption", "detailed_caption", "more_detailed_caption")
MINUTES = 10
EVENT_SCENES = 15
EVERY_S = 1.001
"""Interval. Not a whole second: the noise of the toy world repeats within one."""
STEADY = 10
"""Answers before and after each event."""
SOON = 2
"""Intervals within which an event must be reported."""


RESULTS = ("ok", "empty")
CLEAR = Difficulty(sides=(LARGE, 0.4), objects=(2, 4), overlap=0.0)
"""Scenes of large objects, which the shipped model names reliably: what a caption misses cannot be reported."""


class Camera:
    """A simulated stream: asks the model about one frame after another, and returns what is sent."""

    def __init__(self, engine: Engine, task: str, world: World) -> None:
        streams = {"toy": {"source": "synthetic", "tasks": [{"task": task, "changes": True}]}}
        self.engine, self.scene = engine, world.scene(1.0)
        (self.task,) = from_mapping({"streams": streams}).streams["toy"].tasks
        self.changes = ContentChanges(lambda stream, task: None)
        self.count = 0

    def answer(self, things: tuple[Thing, ...]) -> tuple[str | None, EventChanges | None]:
        """Return the outcome that is sent about the next frame, which shows these things, and its changes."""
        at = self.count * EVERY_S
        picture = replace(self.scene, time=at, objects=things).paint(WIDTH, HEIGHT)
        frame = Frame("toy", 1, self.count, at, at, at, picture)
        self.count += 1
        (result,) = run(self.engine, [Job(DueTask("toy", self.task, 0.0), frame)])
        sent, changes = self.changes.check(result)
        return None if sent is None else sent.outcome, changes


def still(engine: Engine, task: str, scenes: int, minutes: float = MINUTES) -> dict[str, int]:
    """Return the number of results of still scenes, without the first of each."""
    results = reports = with_results = 0
    for number in range(scenes):
        camera = Camera(engine, task, World(FIRST_SEED + number))
        outcomes = [camera.answer(camera.scene.objects)[0] for _ in range(round(60 * minutes / EVERY_S))]
        found = sum(outcome in RESULTS for outcome in outcomes[1:])
        results, with_results = results + found, with_results + bool(found)
        reports += outcomes.count("unchanged")
    return {"scenes": scenes, "results": results, "scenes_with_results": with_results, "unchanged_reports": reports}


def events(engine: Engine, task: str, scenes: int) -> dict[str, int]:
    """Return how many appearances and disappearances, two in a scene, are reported, and the number of other results."""
    in_time = late = other = 0
    worlds = (World(seed, difficulty=CLEAR) for seed in count(FIRST_SEED))
    # The model has never seen a picture without an object.
    for world in islice((world for world in worlds if len(world.scene(1.0).objects) > 1), scenes):
        camera = Camera(engine, task, world)
        everything = camera.scene.objects
        without = everything[:-1]
        what = f"{everything[-1].colour} {everything[-1].kind}"
        other += sum(camera.answer(without)[0] in RESULTS for _ in range(STEADY)) - 1
        for shown in (everything, without):
            answers = [camera.answer(shown) for _ in range(STEADY)]
            reported = [
                interval
                for interval, (outcome, changes) in enumerate(answers, 1)
                if outcome in RESULTS and changes and what in _named(changes, appeared=shown is everything)
            ]
            in_time += bool(reported) and reported[0] <= SOON
            late += bool(reported) and reported[0] > SOON
            other += sum(outcome in RESULTS for outcome, _ in answers) - bool(reported)
    happened = 2 * scenes
    return {"events": happened, "in_time": in_time, "late": late, "missed": happened - in_time - late, "other": other}


def _named(changes: EventChanges, appeared: bool) -> list[str]:
    return [one.what for one in (changes.appeared if appeared else changes.disappeared) if one.relation is None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20, help="still scenes; scenes with two events are 15")
    parser.add_argument("--task", action="append", choices=TASKS)
    parser.add_argument("--only", choices=["still", "events"])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    engine = pipeline.open(pipeline.settings())
    rows: dict[str, Any] = {}
    for task in options.task or TASKS:
        rows[task] = {}
        if options.only != "still":
            rows[task]["events"] = events(engine, task, EVENT_SCENES)
        if options.only != "events":
            rows[task]["still"] = still(engine, task, options.scenes)
        print(f"{task}: {rows[task]}", flush=True)
    if options.write:
        merge("changes", rows)


if __name__ == "__main__":
    main()

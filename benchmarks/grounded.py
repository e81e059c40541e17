"""Support of captions' phrases on held-out toy scenes, with wrong captions injected: `python -m benchmarks.grounded`.

In each true caption one phrase is replaced by one of another colour, of another kind, of a thing that shares neither
with anything in the scene, or of another number. A phrase is true if the scene has what it names; sizes do not count.
Prints the share of wrong phrases that are marked and of true ones, for each kind of caption, for the model's own
captions, and for other values of `min_support`. Exits with 1 when fewer than 0.9 of the wrong phrases or more than 0.08
of the true ones are marked.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.accuracy import FIRST_SEED, HEIGHT, WIDTH
from benchmarks.report import write
from benchmarks.shipped import run
from pipelines.florence2.grounded import CAPTIONS, MIN_SUPPORT
from pipelines.florence2.pipeline import open_engine, pipeline
from pipelines.florence2.stages import with_stages
from pipelines.florence2.training.data import FIRST_TRAINING_SEED
from pipelines.florence2.training.labels import make_example
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.world import KINDS, SCENE_SECONDS, Scene, World
from streamer.types import Answer, DueTask, Engine, Frame, Job, Result, Span, Task

TUNING_SEED = FIRST_TRAINING_SEED + 900_000
"""First world of those on which `min_support` was chosen: `--tune`."""
THRESHOLDS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LEAST_MARKED, MOST_LOST = 0.9, 0.08

Wrong = Literal["colour", "kind", "thing", "number"]
Pair = tuple[str, str]
"""Colour and kind."""

_NUMBERS = {"a": None, "an": None, "the": None, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_COUNTS = frozenset(word for word, number in _NUMBERS.items() if number)
_WORDS = {number: word for word, number in _NUMBERS.items() if number}
_FACT = re.compile(
    rf"\b({'|'.join(_NUMBERS)}) (large |small )?({'|'.join(COLOURS)}) ({'|'.join(KINDS)})(?:s|es)?\b", re.IGNORECASE
)


@dataclass
class Count:
    """Phrases of one row, and how many of them are marked."""

    phrases: int = 0
    marked: int = 0
    unseen: int = 0
    """Phrases without a span."""

    def add(self, is_marked: bool | None) -> None:
        """None: there is no span."""
        self.phrases += 1
        self.marked += bool(is_marked)
        self.unseen += is_marked is None

    @property
    def share(self) -> float:
        return round(self.marked / max(1, self.phrases), 4)


@dataclass
class Counts:
    """The rows of one value of `min_support`."""

    wrong: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    """Phrases that name what is not there, by the part that is wrong, and by kind of caption."""
    true: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    """Phrases that are right, by kind of caption."""
    own_wrong: Count = field(default_factory=Count)
    own_true: Count = field(default_factory=Count)


class Replay:
    """An engine around another one that answers captions with given texts, and equal questions with the same answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model, self.description, self.warnings = engine.model, engine.description, engine.warnings
        self.texts: dict[str, str] = {}
        """Captions by the name of the task."""
        self._answers: dict[Any, Result] = {}
        """Results by frame, kind of task and prompt."""
        self._waiting: dict[Any, list[Job]] = {}
        """Jobs with a question that the engine has."""
        self._ready: list[Result] = []

    def forget(self) -> None:
        """Forget the captions and the answers."""
        self.texts.clear()
        self._answers.clear()

    def free(self) -> int:
        return self._engine.free()

    def admit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            task = job.due.task
            key = job.frame.id, task.task, task.params.prompt_text, task.params.prompt_region
            text = self.texts.get(task.name.partition("/")[0])
            if task.task in CAPTIONS.values() and text is not None:
                self._ready.append(Result(job, "ok", Answer(text=text, score=1.0)))
            elif key in self._answers:
                self._ready.append(replace(self._answers[key], job=job))
            elif key in self._waiting:
                self._waiting[key].append(job)
            else:
                self._waiting[key] = [job]
                self._engine.admit([job])

    def step(self) -> list[Result]:
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        results = []
        for result in self._engine.step():
            key = next(key for key, jobs in self._waiting.items() if jobs[0] is result.job)
            self._answers[key] = result
            results += [replace(result, job=job) for job in self._waiting.pop(key)]
        return results


def facts(text: str, scene: Scene) -> Iterator[tuple[int, int, bool]]:
    """Yield start and end of each phrase that names objects, and whether the scene has them."""
    there = Counter((thing.colour, thing.kind) for thing in scene.objects)
    for fact in _FACT.finditer(text):
        number, count = _NUMBERS[fact[1].lower()], there[fact[3], fact[4]]
        yield *fact.span(), bool(count) if number is None else count == number


def inject(text: str, scene: Scene, wrong: Wrong, rng: np.random.Generator) -> str | None:
    """Return the caption with one wrong phrase; None if there can be none of this kind."""
    there = Counter((thing.colour, thing.kind) for thing in scene.objects)
    found = list(_FACT.finditer(text))
    fact = found[int(rng.integers(len(found)))]
    article, size, colour, kind = fact.groups()
    if wrong == "number":
        number = there[colour, kind] + int(rng.choice((-1, 1)))
        if article.lower() == "the" or number < 2:
            return None
        phrase = f"{_WORDS[number]} {size or ''}{colour} {_plural(kind)}"
    else:
        pairs = [pair for pair in _absent(there) if _differs(wrong, pair, (colour, kind), there)]
        if not pairs:
            return None
        colour, kind = pairs[int(rng.integers(len(pairs)))]
        words = f"{size or ''}{colour} {kind}"
        if article.lower() in ("a", "an"):
            article = "an" if words[0] in "aeiou" else "a"
        phrase = f"{article} {words if _NUMBERS[article.lower()] is None else _plural(words)}"
    return text[: fact.start()] + phrase + text[fact.end() :]


def _absent(there: Counter[Pair]) -> list[Pair]:
    return [(colour, kind) for colour in COLOURS for kind in KINDS if not there[colour, kind]]


def _differs(wrong: Wrong, pair: Pair, true: Pair, there: Counter[Pair]) -> bool:
    """Return whether a pair differs from the true one in what shall be wrong."""
    match wrong:
        case "colour":
            return pair[1] == true[1]
        case "kind":
            return pair[0] == true[0]
        case _:
            return all(pair[0] != colour and pair[1] != kind for colour, kind in there)


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def judge(spans: Sequence[Span], start: int, end: int) -> bool | None:
    """Return whether the phrase text[start:end] is marked; None if it has no span."""
    over = [span for span in spans if span.start < end and start < span.end]
    return any(not span.is_supported for span in over) if over else None


def captions(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, str, str | None]]:
    """Yield grounded task, what is wrong and caption: the true ones, wrong ones, and None for the model's own."""
    for task, kind in CAPTIONS.items():
        text = make_example(kind, scene, rng).answer
        yield task, "", text
        yield task, "own", None
        for wrong in get_args(Wrong):
            if (changed := inject(text, scene, wrong, rng)) is not None:
                yield task, wrong, changed


def measure(scenes: int, first_seed: int, least: Sequence[float]) -> dict[float, Counts]:
    """Return the counts by value of `min_support`."""
    counts = {value: Counts() for value in least}
    rng = np.random.default_rng(first_seed)
    replay = Replay(open_engine(pipeline.settings(drafts="off", max_batch=16)))
    engine = with_stages(replay)
    for number in range(scenes):
        scene = World(first_seed + number).scene(float(rng.random() * SCENE_SECONDS))
        frame = Frame("toy", 0, number, 0.0, 0.0, 0.0, scene.paint(WIDTH, HEIGHT))
        jobs: list[Job] = []
        about = []
        for task, wrong, text in captions(scene, rng):
            for value in least:
                params = pipeline.tasks()[task].parameters(min_support=value)
                name = f"{len(jobs)}"
                if text is not None:
                    replay.texts[name] = text
                jobs.append(Job(DueTask("toy", Task(name, task, params), 0.0), frame))
                about.append((value, task, wrong))
        for (value, task, wrong), result in zip(about, run(engine, jobs), strict=True):
            _count(counts[value], task, wrong, result.answer, scene)
        replay.forget()
    return counts


def _count(counts: Counts, task: str, wrong: str, answer: Answer, scene: Scene) -> None:
    for start, end, is_true in facts(answer.text or "", scene):
        marked, counts_things = judge(answer.spans, start, end), (answer.text or "")[start:end].split()[0] in _COUNTS
        if wrong == "own":
            (counts.own_true if is_true else counts.own_wrong).add(marked)
        elif is_true and not wrong:
            for row in (task, "all", *(["number"] if counts_things else [])):
                counts.true[row].add(marked)
        elif not is_true:
            for row in (task, wrong, "all"):
                counts.wrong[row].add(marked)


def rows(counts: Counts) -> dict[str, Any]:
    return {
        "wrong": {name: [count.phrases, count.share] for name, count in counts.wrong.items()},
        "true": {name: [count.phrases, count.share] for name, count in counts.true.items()},
        "own captions": {
            "wrong": [counts.own_wrong.phrases, counts.own_wrong.share],
            "true": [counts.own_true.phrases, counts.own_true.share],
        },
        "without a span": sum(one.unseen for one in (*counts.wrong.values(), *counts.true.values())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="scenes [500]")
    parser.add_argument("--tune", action="store_true", help="scenes of the training's seeds, not held-out ones")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/grounded.json")
    options = parser.parse_args()
    counts = measure(options.scenes, TUNING_SEED if options.tune else FIRST_SEED, THRESHOLDS)
    print(f"{'min_support':12}{'wrong, marked':>16}{'true, marked':>16}{'own wrong':>16}{'own true':>16}")
    for value, one in counts.items():
        shares = (one.wrong["all"], one.true["all"], one.own_wrong, one.own_true)
        print(f"{value:<12}" + "".join(f"{f'{count.share:.3f} ({count.phrases})':>16}" for count in shares))
    chosen = counts[MIN_SUPPORT]
    print(rows(chosen))
    if options.write:
        curve = {str(value): rows(one) for value, one in counts.items()}
        write("grounded", {"scenes": options.scenes, "min_support": MIN_SUPPORT, **rows(chosen), "curve": curve})
    return int(chosen.wrong["all"].share < LEAST_MARKED or chosen.true["all"].share > MOST_LOST)


if __name__ == "__main__":
    sys.exit(main())

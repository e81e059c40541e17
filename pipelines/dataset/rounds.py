"""A round of the data engine: annotate, filter, review, examples, train, compare; it stops where a person decides.

All files of round N are in `rounds/N` of the dataset's folder. A step is finished when `lineage.jsonl` has its line, so
a killed round continues with the step that was interrupted, which continues where it was or writes its files anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from pipelines.dataset import filters
from pipelines.dataset.annotate import Questions, ask, find_model
from pipelines.dataset.formats import coco
from pipelines.dataset.gather import DETECTION, answered_pictures, detected_objects, labelled
from pipelines.dataset.labels import LabelledPicture, Labels
from pipelines.dataset.lineage import Lineage, StepRecord, file_hashes, pictures_hash
from pipelines.dataset.metrics.detection import overall, score_labels
from pipelines.dataset.round_examples import derived, own_answers, split, write
from pipelines.dataset.shots import find_shots
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.examples import read_examples
from pipelines.florence2.finetune.settings import TrainingSettings
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from streamer.core.errors import ConfigError
from streamer.core.settings import Settings
from streamer.types import Task
from streamer.types.dataset import ANSWERS

LABELS, REVIEWED = "labels.json", "reviewed.json"
"""COCO files of a round: labels after the filters, and after the review."""
TRAIN, HELD_OUT, TEST = "train.jsonl", "held-out.jsonl", "test.jsonl"
"""Examples of a round, each later in time than the ones before."""
REHEARSAL, OLD = "rehearsal.jsonl", "old.jsonl"
"""The base model's own answers for other tasks, about the pictures of TRAIN and of TEST."""
MODEL, REPORT = "model", "report.html"


class RoundSettings(Settings):
    """Settings of a round."""

    model: str | None = None
    """Checkpoint that is trained. Default: the shipped one."""
    teacher: str | None = None
    """Checkpoint that makes the labels. Default: the one that is trained."""
    tasks: tuple[str, ...] = (DETECTION,)
    """Tasks that are trained."""
    agree: tuple[str, ...] = ("region_proposal",)
    """Tasks of which one must have found each object too; empty: no such filter."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Score below which objects are removed."""
    rehearse: tuple[str, ...] = ("caption", "dense_region_caption")
    """Tasks whose answers by the model itself are trained too, so that it does not forget them."""
    training: TrainingSettings = TrainingSettings()


class Outcome(NamedTuple):
    """The result of a finished step, for the lineage."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    counts: Mapping[str, Any]


class Round:
    """The newest round of a dataset's folder."""

    def __init__(
        self,
        folder: Path,
        settings: RoundSettings,
        tell: Callable[[str], None],
        device: str = "auto",
        accept_labels: bool = False,
    ) -> None:
        """`accept_labels`: train on the filtered labels without a review. Raises ConfigError."""
        list(derived(LabelledPicture("", 0, 0), settings.tasks))  # refuses tasks that objects cannot answer
        for task in (*settings.agree, *settings.rehearse):
            if task not in FLORENCE_TASKS or SPECS[task].takes_text or SPECS[task].takes_region:
                raise ConfigError(f"`{task}` is no task about a picture alone; `streamer tasks` lists them")
        self._folder, self._settings, self._tell = folder, settings, tell
        self._device, self._accept_labels = device, accept_labels
        self._shots = find_shots(folder)
        self._lineage = Lineage(folder)
        self._model = cache(find_model)
        """Finds a model by its checkpoint; the files of each are read once."""
        self._number = self._lineage.last_round or 1
        if self._finished("compare"):
            first = self._lineage.find(self._number, "annotate")
            if first is None or first.inputs["pictures"] != self._pictures:
                self._number += 1
        self.path = folder / "rounds" / str(self._number)

    def run(self) -> str:
        """Run the steps that are not finished, until a person has to decide; return what the person can do.

        Raises ConfigError.
        """
        if not self._shots:
            return _stop(
                f"{self._folder} has no pictures. Copy some into it, or collect them:",
                ["streamer", "dataset", "collect", "--from", "CAMERA", "--out", self._folder],
                "Then run this command again.",
            )
        if not self._finished("compare"):
            check_settings(self._number, self._settings, self._lineage.find(self._number, "annotate"))
        self.path.mkdir(parents=True, exist_ok=True)
        steps: dict[str, Callable[[], Outcome | str]] = {
            "annotate": self._annotate,
            "filter": self._filter,
            "review": self._review,
            "examples": self._examples,
            "train": self._train,
            "compare": self._compare,
        }
        for name, step in steps.items():
            if self._finished(name):
                continue
            self._tell(f"round {self._number}: {name}")
            outcome = step()
            if isinstance(outcome, str):
                return outcome
            counts = ", ".join(f"{key} {value}" for key, value in outcome.counts.items())
            self._tell(f"round {self._number}: {name} has ended: {counts}")
            self._lineage.add(self._number, name, self._settings.model_dump(mode="json"), *outcome)
        return self._decision()

    @cached_property
    def _pictures(self) -> str:
        """Hash of all pictures, which are read for it."""
        return pictures_hash(self._folder, [shot.image for shot in self._shots])

    def _finished(self, step: str) -> bool:
        return self._lineage.find(self._number, step) is not None

    def _annotate(self) -> Outcome:
        settings = self._settings
        asked = {self._teacher: [DETECTION, *settings.agree]}
        asked.setdefault(settings.model, []).extend(settings.rehearse)
        counts: Counter[str] = Counter(pictures=len(self._shots))
        models = {}
        for checkpoint, names in asked.items():
            model = self._model(checkpoint)
            tasks = [Task(name, name, SPECS[name].parameters()) for name in dict.fromkeys(names)]
            questions = [Questions(shot, tasks) for shot in self._shots]
            answers = ask(model, self._folder, questions, self._folder / ANSWERS, self._device, self._tell)
            models[model.name] = model.digest
            counts.update(answers=answers.answered + answers.known, failed=answers.failed)
        return Outcome({"pictures": self._pictures, **models}, file_hashes([self._folder / ANSWERS]), dict(counts))

    @property
    def _teacher(self) -> str | None:
        return self._settings.teacher or self._settings.model

    def _filter(self) -> Outcome:
        settings, answers = self._settings, self._folder / ANSWERS
        found = {one.image: one for one in answered_pictures(answers, self._model(self._teacher).name)}
        # The order of the pictures, not that of the answers, which depends on interruptions.
        pictures = [found[shot.image] for shot in self._shots if shot.image in found]
        steps = [filters.by_score(settings.min_score), filters.by_size(), filters.by_overlap()]
        if settings.agree:
            steps.append(filters.by_agreement(settings.agree))
        before = detected_objects(pictures)
        objects, table = filters.run(steps, pictures, before)
        counts = {"objects": sum(map(len, before))}
        counts |= {f"removed by {row.name}": sum(row.removed.values()) for row in table.rows}
        counts["kept"] = sum(map(len, objects))
        labels, reviewed = labelled(self._folder, pictures, objects), reviewed_before(self.path)
        made = tuple(reviewed.get(picture.file, picture) for picture in labels.pictures)
        names = sorted({one.label for picture in made for one in picture.objects})
        coco.write(self.path / LABELS, Labels(tuple(names), made))
        counts["pictures reviewed before"] = sum(picture.file in reviewed for picture in made)
        return Outcome(file_hashes([answers]), file_hashes([self.path / LABELS]), counts)

    def _review(self) -> Outcome | str:
        labels, reviewed = self.path / LABELS, self.path / REVIEWED
        made = coco.read(labels)
        if not reviewed.is_file():
            if self._accept_labels:
                return Outcome(file_hashes([labels]), {}, {"pictures": len(made.pictures), "reviewed": 0})
            objects = sum(len(picture.objects) for picture in made.pictures)
            return _stop(
                f"{labels} has {objects} labels of {len(made.pictures)} pictures. Correct them:",
                ["streamer", "dataset", "review", self._folder, "--labels", f"coco:{labels}"],
                ["streamer", "dataset", "convert", f"review:{self._folder}", f"coco:{reviewed}"],
                "Then run this command again. With --accept-labels it trains on the labels as they are.",
            )
        right = coco.read(reviewed)
        known = {picture.file: picture.objects for picture in made.pictures}
        score = overall(score_labels([(known.get(one.file, ()), one.objects) for one in right.pictures]))
        counts = {"pictures": len(right.pictures), "objects": score.expected, "labels": score.found}
        counts["right labels"] = score.right
        return Outcome(file_hashes([labels]), file_hashes([reviewed]), counts)

    def _labels(self) -> Labels:
        """Return the labels to train on. Raises ConfigError for labels of other pictures."""
        path = labels_path(self.path)
        labels = coco.read(path)
        images = {shot.image for shot in self._shots}
        if missing := next((one.file for one in labels.pictures if one.file not in images), None):
            raise ConfigError(f"{path}: the picture {missing} is not in {self._folder}")
        return labels

    def _examples(self) -> Outcome:
        by_image = {picture.file: picture for picture in self._labels().pictures}
        train, held_out, test = split([shot for shot in self._shots if shot.image in by_image])
        settings, answers = self._settings, self._folder / ANSWERS
        rehearsed = set(settings.rehearse) - set(settings.tasks)
        own = own_answers(answers, self._model(settings.model).name, rehearsed)
        counts: dict[str, Any] = {"train": len(train), "held-out": len(held_out), "test": len(test)}
        for name, some in ((TRAIN, train), (HELD_OUT, held_out), (TEST, test)):
            made = (example for shot in some for example in derived(by_image[shot.image], settings.tasks))
            counts[f"examples in {name}"] = write(self.path / name, self._folder, made)
        for name, some in ((REHEARSAL, train), (OLD, test)):
            kept = (example for shot in some for example in own.get(shot.image, ()))
            counts[f"examples in {name}"] = write(self.path / name, self._folder, kept)
        files = [self.path / name for name in (TRAIN, HELD_OUT, TEST, REHEARSAL, OLD)]
        return Outcome(file_hashes([labels_path(self.path), answers]), file_hashes(files), counts)

    def _train(self) -> Outcome:
        from pipelines.florence2.finetune.run import RECORD, train
        from streamer.core.picture_files import read_picture

        settings, out = self._settings, self.path / MODEL
        names = (TRAIN, REHEARSAL, HELD_OUT)
        learned, rehearsed, held_out = (list(read_examples(self.path / name)) for name in names)
        if not out.exists():  # a run that was killed after its last step has made it
            train(
                *(open_folder(settings.model), out, settings.training, learned, held_out),
                *(lambda image: read_picture(self.path / image), self._tell, self._device, rehearsed),
            )
        record = json.loads((out / RECORD).read_text())
        counts = {"examples": len(learned), "rehearsed": len(rehearsed), "held out": len(held_out)}
        losses = {"loss before": record["held_out_loss_before"], "loss after": record["best"]}
        inputs = {record["base"]: record["base_digest"], **file_hashes([self.path / name for name in names])}
        return Outcome(
            inputs, {MODEL: self._model(str(out)).digest}, {**counts, "steps": record["best_step"], **losses}
        )

    def _compare(self) -> Outcome:
        from pipelines.dataset.report import read_set, write_report

        sets = [read_set(self.path / name, self.path)._replace(name=name) for name in (TEST, OLD)]
        models = self._model(self._settings.model), self._model(str(self.path / MODEL))
        rows = write_report(models, [one for one in sets if one.truth], self.path / REPORT, self._device, self._tell)
        verdicts = Counter(row.verdict for row in rows)
        outputs = file_hashes([self.path / REPORT, (self.path / REPORT).with_suffix(".json")])
        return Outcome(
            file_hashes([self.path / TEST, self.path / OLD]),
            outputs,
            {verdict: verdicts[verdict] for verdict in ("better", "equal", "worse")},
        )

    def _decision(self) -> str:
        """Return the end of a round in words."""
        record = self._lineage.find(self._number, "compare")
        counts = {} if record is None else record.counts
        verdicts = ", ".join(f"{value} {verdict}" for verdict, value in counts.items())
        return _stop(
            f"Round {self._number} is complete. Tasks by the new model: {verdicts}; see {self.path / REPORT}",
            "To use it in a running agent:",
            ["streamer", "model", "use", self.path / MODEL],
            f"The next round begins when {self._folder} has further pictures.",
        )


def check_settings(number: int, settings: RoundSettings, first: StepRecord | None) -> None:
    """Raise ConfigError if a round was begun with other settings, by the record of its first step."""
    now = settings.model_dump(mode="json")
    before = now if first is None else first.settings
    for name in now:
        if before.get(name) != now[name]:
            raise ConfigError(
                f"round {number} was begun with {name} {json.dumps(before.get(name))}, not {json.dumps(now[name])}: "
                f"give the options of its first command again"
            )


def labels_path(path: Path) -> Path:
    """Return the labels of the round at `path` to train on."""
    reviewed = path / REVIEWED
    return reviewed if reviewed.is_file() else path / LABELS


def reviewed_before(path: Path) -> dict[str, LabelledPicture]:
    """Return the pictures that a person reviewed in rounds before that at `path`. Raises ConfigError."""
    found: dict[str, LabelledPicture] = {}
    for number in range(1, int(path.name)):
        reviewed = path.with_name(str(number)) / REVIEWED
        if reviewed.is_file():
            found |= {picture.file: picture for picture in coco.read(reviewed).pictures}
    return found


def _stop(*lines: str | Sequence[object]) -> str:
    """Return lines of text and of commands, given as their words."""
    return "\n".join(line if isinstance(line, str) else "  " + shlex.join(map(str, line)) for line in lines)


def run_round(
    folder: Path,
    settings: RoundSettings,
    tell: Callable[[str], None],
    device: str = "auto",
    accept_labels: bool = False,
) -> str:
    """Continue the round of a dataset's folder; see `Round`. Raises ConfigError, also while another process does so."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Round(folder, settings, tell, device, accept_labels).run()
    except BlockingIOError:
        raise ConfigError(f"{folder}: another command works on its round; wait until it has ended") from None
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    finally:
        os.close(descriptor)

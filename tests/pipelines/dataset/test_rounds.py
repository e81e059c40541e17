"""A round of the data engine: killed in each step, stops for a person, lineage, the next round."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from pipelines.dataset.formats import coco
from pipelines.dataset.labels import LabelledObject, LabelledPicture, Labels
from pipelines.dataset.lineage import FILE, Lineage, StepRecord
from pipelines.dataset.rounds import LABELS, REVIEWED, RoundSettings, run_round
from pipelines.florence2.finetune.settings import TrainingSettings
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World

pytestmark = pytest.mark.timeout(900)  # 20 s on an idle core
PICTURES = 8
SETTINGS = RoundSettings(
    agree=(), rehearse=("caption",), training=TrainingSettings(rank=2, epochs=2, batch=8, rate=1e-3)
)
STEPS = ["annotate", "filter", "review", "examples", "train", "compare"]
KILLED_AT = ["round 1: annotate has", "round 1: filter has", "round 1: review has", "round 1: examples has"]
KILLED_AT += ["step 2 of", "round 1: train has", "round 1: compare has"]
"""Lines of progress at which the process is killed: the work of a step is done, and not yet recorded."""

DRIVER = """
import os, signal, sys
from pathlib import Path
import torch
import pipelines.dataset.report
import pipelines.florence2.finetune.run
from pipelines.dataset.rounds import RoundSettings, run_round
torch.set_num_threads(1)
settings = RoundSettings.model_validate_json(sys.argv[1])

def attempt(folder, killed_at):
    # A process of its own, forked: it need not import torch again.
    def tell(line):
        if killed_at is not None and line.startswith(killed_at):
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        print(run_round(Path(folder), settings, tell, "cpu", accept_labels=True), flush=True)
        os._exit(0)
    return os.waitpid(child, 0)[1]

whole, killed, *lines = sys.argv[2:]
assert attempt(whole, None) == 0
for line in lines:
    assert attempt(killed, line) == signal.SIGKILL, line
assert attempt(killed, None) == 0
"""


def make_pictures(folder: Path, first: int, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        assert cv2.imwrite(str(folder / f"{number:03}.png"), World(540_000 + number).scene(3.0).paint(320, 240))


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with equal pictures and a complete round, the second one of killed processes."""
    base = tmp_path_factory.mktemp("rounds")
    folders = base / "whole", base / "killed"
    for folder in folders:
        make_pictures(folder, 0, PICTURES)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, SETTINGS.model_dump_json(), *map(str, folders), *KILLED_AT],
        *(),
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("streamer model use") == 2
    return folders


def records(folder: Path) -> list[StepRecord]:
    return Lineage(folder).records


def test_round_killed_in_each_step_ends_with_equal_files(rounds: tuple[Path, Path]) -> None:
    whole, killed = map(records, rounds)
    assert [one.step for one in whole] == STEPS
    assert [replace(one, at="") for one in killed] == [replace(one, at="") for one in whole]
    assert all(one.round == 1 for one in whole)


def test_lineage_has_hashes_settings_and_counts(rounds: tuple[Path, Path]) -> None:
    lines = [json.loads(line) for line in (rounds[0] / FILE).read_text().splitlines()]
    by_step = {line["step"]: line for line in lines}
    assert by_step["annotate"]["settings"]["training"]["rank"] == 2
    assert by_step["annotate"]["counts"] == {"pictures": PICTURES, "answers": 2 * PICTURES, "failed": 0}
    # The output of each step is the input of a later one.
    assert by_step["filter"]["outputs"][LABELS] == by_step["review"]["inputs"][LABELS]
    assert by_step["examples"]["outputs"]["train.jsonl"] == by_step["train"]["inputs"]["train.jsonl"]
    assert by_step["train"]["inputs"]["tiny"] in by_step["annotate"]["inputs"].values()
    counts = by_step["examples"]["counts"]
    assert (counts["train"], counts["held-out"], counts["test"]) == (5, 1, 2)
    assert by_step["train"]["counts"]["rehearsed"] == 5
    assert sum(by_step["compare"]["counts"].values()) == 2  # detection, and the captions of before


def test_test_pictures_are_the_last_ones(rounds: tuple[Path, Path]) -> None:
    def images(name: str) -> list[str]:
        lines = (rounds[0] / "rounds" / "1" / name).read_text().splitlines()
        return [Path(json.loads(line)["image"]).stem for line in lines]

    assert images("train.jsonl") < images("held-out.jsonl") < images("test.jsonl") == ["006", "007"]


def test_next_round_begins_with_further_pictures(rounds: tuple[Path, Path]) -> None:
    """It stops for the review, continues with reviewed labels, and refuses other settings and other pictures."""
    folder, told = rounds[1], list[str]()

    def run(settings: RoundSettings = SETTINGS) -> str:
        return run_round(folder, settings, told.append, "cpu")

    assert "Round 1 is complete" in run()
    make_pictures(folder, PICTURES, 1)
    reviewed = LabelledPicture("000.png", 320, 240, (LabelledObject("ladder", (0.25, 0.25, 0.5, 0.5)),))
    coco.write(folder / "rounds" / "1" / REVIEWED, Labels(("ladder",), (reviewed,)))
    stop = run()
    where = folder / "rounds" / "2"
    assert f"streamer dataset review {folder} --labels coco:{where / LABELS}" in stop
    assert run() == stop  # nothing is asked twice
    assert [one.step for one in records(folder)[len(STEPS) :]] == ["annotate", "filter"]
    assert coco.read(where / LABELS).pictures[0] == reviewed  # a person's labels are not made again
    with pytest.raises(ConfigError, match=r"round 2 was begun with min_score 0.5, not 0.6"):
        run(SETTINGS.model_copy(update={"min_score": 0.6}))
    labels = coco.read(where / LABELS)
    foreign = LabelledPicture("other.png", 320, 240)
    coco.write(where / REVIEWED, replace(labels, pictures=(*labels.pictures, foreign)))
    with pytest.raises(ConfigError, match=r"the picture other.png is not in"):
        run()


def test_second_command_at_the_same_time_is_refused(tmp_path: Path) -> None:
    make_pictures(tmp_path, 0, 1)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another command works on its round"):
            run_round(tmp_path, SETTINGS, print)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SETTINGS.model_copy(update={"tasks": ("ocr",)}), "--task: labelled objects say nothing"),
        (lambda: SETTINGS.model_copy(update={"agree": ("phrase_grounding",)}), "no task about a picture alone"),
        (lambda: SETTINGS.model_copy(update={"rehearse": ("captoin",)}), "`captoin` is no task"),
    ],
)
def test_impossible_tasks_are_refused(tmp_path: Path, make: Callable[[], RoundSettings], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_round(tmp_path, make(), print)


def test_folder_without_pictures_is_told_where_from(tmp_path: Path) -> None:
    assert "streamer dataset collect" in run_round(tmp_path, SETTINGS, print)
    with pytest.raises(ConfigError, match="cannot be opened"):
        run_round(tmp_path / "no", SETTINGS, print)


def test_damaged_lineage_is_named_with_its_line(tmp_path: Path) -> None:
    make_pictures(tmp_path, 0, 1)
    (tmp_path / FILE).write_text('{"round": 1}\n')
    with pytest.raises(ConfigError, match=r"lineage.jsonl:1: "):
        run_round(tmp_path, SETTINGS, print)

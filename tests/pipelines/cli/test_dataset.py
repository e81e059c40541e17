"""`streamer dataset` and `streamer train`, from pictures of the toy world to a trained checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner, Result

from pipelines.dataset.formats import coco
from pipelines.dataset.labels import LabelledObject, LabelledPicture, Labels
from pipelines.florence2.finetune.run import RECORD
from streamer.cli.main import app
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SEEDS = range(530_000, 530_004)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def refused(*words: object) -> str:
    error = run(*words).exception
    assert isinstance(error, ConfigError)
    return str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four pictures and `truth.json`, their labels."""
    made = tmp_path_factory.mktemp("pictures")
    pictures = []
    for seed in SEEDS:
        scene = World(seed).scene(3.0)
        assert cv2.imwrite(str(made / f"{seed}.png"), scene.paint(320, 240))
        objects = tuple(LabelledObject(thing.kind, thing.box) for thing in scene.objects)
        pictures.append(LabelledPicture(f"{seed}.png", 320, 240, objects))
    names = sorted({one.label for picture in pictures for one in picture.objects})
    coco.write(made / "truth.json", Labels(tuple(names), tuple(pictures)))
    return made


@pytest.mark.timeout(600)  # 10 s on an idle core
def test_pictures_become_a_trained_checkpoint(folder: Path) -> None:
    asked = run(
        "dataset", "annotate", folder, "--task", "object_detection", "--task", "region_proposal", "--device", "cpu"
    )
    assert asked.exit_code == 0, asked.output
    assert "8 new answers, 0 known, 0 failed" in asked.stdout
    words = refused("dataset", "filter", folder, "--agree", "caption", "--out", f"coco:{folder}/none.json")
    assert f"--agree: {folder}/answers.jsonl has no answers of `caption`" in words
    filtered = run(
        *("dataset", "filter", folder, "--agree", "region_proposal", "--out", f"coco:{folder}/found.json"),
    )
    assert filtered.exit_code == 0, filtered.output
    assert "not found by region_proposal" in filtered.stdout
    table = run("dataset", "score", f"coco:{folder}/truth.json", f"coco:{folder}/found.json")
    assert table.exit_code == 0, table.output
    last = table.stdout.splitlines()[-1].split()
    assert last[0] == "all"
    assert float(last[4]) > 0.8  # recall
    made = run(
        *("dataset", "examples", f"coco:{folder}/found.json", "--pictures", folder, "--out", folder / "train.jsonl"),
        *("--task", "object_detection", "--task", "region_to_category", "--held-out", folder / "later.jsonl"),
    )
    assert made.exit_code == 0, made.output
    assert {json.loads(line)["image"] for line in (folder / "later.jsonl").read_text().splitlines()} == {"530003.png"}
    assert "530003.png" not in (folder / "train.jsonl").read_text()
    trained = run(
        *("train", folder / "train.jsonl", "--held-out", folder / "later.jsonl", "--out", folder / "trained"),
        *("--epochs", 1, "--rank", 2, "--device", "cpu"),
    )
    assert trained.exit_code == 0, trained.output
    assert "held-out loss" in trained.stdout
    assert json.loads((folder / "trained" / RECORD).read_text())["base"] == "tiny"
    report = folder / "report.html"
    compared = run(
        *("dataset", "compare", "shipped", folder / "trained", "--truth", f"coco:{folder}/truth.json"),
        *("--pictures", folder, "--examples", folder / "train.jsonl", "--out", report, "--device", "cpu"),
    )
    assert compared.exit_code == 0, compared.output
    assert "The second model is" in compared.stdout
    numbers = json.loads(report.with_suffix(".json").read_text())
    assert [name.partition("@")[0] for name in numbers["models"]] == ["tiny", "trained"]
    assert [row["task"] for row in numbers["rows"]] == ["object_detection", "object_detection", "region_to_category"]
    assert all(side["failed"] == 0 for row in numbers["rows"] for side in row["models"])
    assert numbers["rows"][0]["models"][0]["recall"] > 0.8
    assert report.read_text().count("<figure>") == len(SEEDS)  # labels and examples name the same pictures


def test_labels_are_converted(folder: Path, tmp_path: Path) -> None:
    done = run("dataset", "convert", f"coco:{folder}/truth.json", f"cvat:{tmp_path}/a.xml")
    assert "4 pictures" in done.stdout
    run("dataset", "convert", f"cvat:{tmp_path}/a.xml", f"coco:{tmp_path}/back.json")
    assert coco.read(tmp_path / "back.json").pictures == coco.read(folder / "truth.json").pictures


def test_round_of_an_empty_folder_says_how_to_collect(tmp_path: Path) -> None:
    done = run("dataset", "round", tmp_path)
    assert done.exit_code == 0
    assert f"streamer dataset collect --from CAMERA --out {tmp_path}" in done.stdout
    assert "`captoin` is no task" in refused("dataset", "round", tmp_path, "--rehearse", "captoin")
    assert "--rate: " in refused("dataset", "round", tmp_path, "--rate", 2)


def test_wrong_use_names_what_to_write(folder: Path, tmp_path: Path) -> None:
    assert "write a format and a path" in refused("dataset", "convert", "labels.json", f"coco:{tmp_path}/a.json")
    assert "no such file" in refused("dataset", "convert", f"coco:{tmp_path}/no.json", f"coco:{tmp_path}/a.json")
    assert "has no pictures" in refused("dataset", "annotate", tmp_path, "--task", "caption")
    assert "no task `captoin`" in refused("dataset", "annotate", folder, "--task", "captoin")
    assert "needs --text" in refused("dataset", "annotate", folder, "--task", "phrase_grounding")
    truth = f"coco:{folder}/truth.json"
    where = ("--pictures", tmp_path, "--out", tmp_path / "train.jsonl")
    assert "lacks the picture 530000.png" in refused("dataset", "examples", truth, *where)
    report = ("dataset", "compare", "shipped", "shipped", "--out", tmp_path / "report.html")
    assert "give --truth" in refused(*report)
    assert "--truth needs --pictures" in refused(*report, "--truth", truth)
    assert "say nothing about the task ocr" in refused(*report, "--truth", truth, "--pictures", folder, "--task", "ocr")
    here = ("--pictures", folder, "--out", tmp_path / "train.jsonl", "--task", "ocr")
    assert "say nothing about the task ocr" in refused("dataset", "examples", truth, *here)
    (tmp_path / "train.jsonl").write_text("{}\n")
    assert "train.jsonl:1: " in refused("train", tmp_path / "train.jsonl", "--out", tmp_path / "new")

"""`streamer demo`: the comparison of answers with the truth, and a run of the whole program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from streamer.cli.demo_score import Row, Score, match
from streamer.core.boxes import iou
from streamer.toyworld.world import World


def test_perfect_answer_has_iou_1() -> None:
    truth = [(item.kind, item.box) for item in World(1).scene(3.0).objects]
    rows = match(truth[::-1], truth)
    assert len(rows) == len(truth)
    assert all(row.found and row.iou == 1 for row in rows)


def test_wrong_label_is_a_miss_and_a_false_detection() -> None:
    item = World(1).scene(3.0).objects[0]
    rows = match([("elephant", item.box)], [(item.kind, item.box)])
    assert [(row.label, row.found) for row in rows] == [
        (item.kind, False),
        ("elephant", False),
    ]


def test_object_is_matched_once() -> None:
    item = World(1).scene(3.0).objects[0]
    rows = match([(item.kind, (0, 0, 1, 1)), (item.kind, item.box)], [(item.kind, item.box)])
    assert [row.found for row in rows] == [True, False]
    assert rows[0].detected == item.box


def test_iou_of_overlapping_and_disjoint_boxes() -> None:
    assert iou((0, 0, 1, 1), (0.5, 0, 1, 1)) == 0.5
    assert iou((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_summary_counts_found_and_false_objects() -> None:
    score = Score()
    assert score.summary() == "0 events, no object found."
    box = (0.0, 0.0, 0.5, 0.5)
    score.rows += [Row("circle", box, box), Row("ring", None, box), Row("star", box, None)]
    score.ages += [10.0, 30.0]
    assert score.summary().splitlines() == [
        "2 events. 1 of 2 objects found: recall@0.5 0.50, mean IoU 1.00; 1 false detections.",
        "Age of events: median 20 ms, maximum 30 ms.",
    ]


def test_missed_object_prints_its_true_box() -> None:
    assert str(Row("circle", None, (0.1, 0.2, 0.3, 0.4))).split("truth")[1].split() == [
        "0.10", "0.20", "0.30", "0.40", "missed",
    ]  # fmt: skip


def test_demo_prints_answers_beside_the_truth(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamer.cli", "demo", "--seconds", "3"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Page: http://127.0.0.1:" in done.stdout
    assert "object_detection, " in done.stdout
    assert re.search(r"^    \w+ +detected .+ truth .+", done.stdout, re.MULTILINE)
    assert re.search(r"^\d+ events\b", done.stdout, re.MULTILINE)

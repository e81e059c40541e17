"""File formats of labelled pictures: round trips, files of other tools, hostile files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision
from hypothesis import strategies as st
from pycocotools import mask
from pycocotools.coco import COCO

from pipelines.dataset.formats import coco, cvat, label_studio, yolo
from pipelines.dataset.labels import LabelledObject, LabelledPicture, Labels, safe_file
from streamer.core.boxes import bounds
from streamer.core.errors import ConfigError
from streamer.core.picture_files import read_picture, size_of

NAMES = ("person", "red van")
WIDTH, HEIGHT = 320, 240
SQUARE = ((0.25, 0.25), (0.5, 0.25), (0.5, 0.5), (0.25, 0.5))


def _file(module: Any, folder: Path) -> Path:
    return folder if module is yolo else folder / "labels"


def _roundtrip(module: Any, folder: Path, labels: Labels) -> Labels:
    for picture in labels.pictures:
        if module is yolo:
            _paint(folder / "images" / picture.file, picture.width, picture.height)
    module.write(_file(module, folder), labels)
    read: Labels = module.read(_file(module, folder))
    return read


def _paint(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def _labels(*objects: LabelledObject, file: str = "a.png") -> Labels:
    return Labels(NAMES, (LabelledPicture(file, WIDTH, HEIGHT, objects),))


_values = st.integers(0, 10_000).map(lambda number: number / 10_000)


@st.composite
def _objects(draw: st.DrawFn) -> LabelledObject:
    label = draw(st.sampled_from(NAMES))
    points = draw(st.lists(st.tuples(_values, _values), min_size=3, max_size=8))
    x0, y0, x1, y1 = bounds(points)
    if x0 == x1 or y0 == y1:
        return LabelledObject(label, (0.1, 0.2, 0.7, 0.9))
    return LabelledObject(label, (x0, y0, x1, y1), (tuple(points),) if draw(st.booleans()) else ())


def _close(a: LabelledObject, b: LabelledObject) -> bool:
    """Return whether two objects are equal, but for the rounding of coordinates to a millionth of a pixel."""

    def values(one: LabelledObject) -> list[float]:
        return [*one.box, *(value for part in one.outline for point in part for value in point)]

    same = (a.label, a.score, list(map(len, a.outline))) == (b.label, b.score, list(map(len, b.outline)))
    return same and values(a) == pytest.approx(values(b), rel=0, abs=2e-8)


@pytest.mark.parametrize("module", [coco, cvat])
def test_outline_of_two_parts_stays_one_object(tmp_path: Path, module: Any) -> None:
    other = ((0.75, 0.75), (1.0, 0.75), (1.0, 1.0))
    found = LabelledObject("person", (0.25, 0.25, 1.0, 1.0), (SQUARE, other))
    (picture,) = _roundtrip(module, tmp_path, _labels(found)).pictures
    assert picture.objects == (found,)


@pytest.mark.parametrize("module", [coco, yolo, label_studio])
def test_scores_are_kept(tmp_path: Path, module: Any) -> None:
    found = LabelledObject("person", (0.25, 0.25, 0.5, 0.5), score=0.625)
    if module is label_studio:
        path = tmp_path / "tasks.json"
        label_studio.write(path, _labels(found))
        read = label_studio.read(path, predictions=True)
    else:
        read = _roundtrip(module, tmp_path, _labels(found))
    assert read.pictures[0].objects == (found,)


@pytest.mark.parametrize("module", [coco, yolo, cvat])
def test_picture_without_objects_is_kept(tmp_path: Path, module: Any) -> None:
    assert _roundtrip(module, tmp_path, _labels(file="night/b.png")).pictures == _labels(file="night/b.png").pictures


def _supervision_dataset(folder: Path) -> supervision.DetectionDataset:
    path = folder / "images" / "a.jpg"
    _paint(path)
    found = supervision.Detections(
        xyxy=np.array([[16.0, 24.0, 160.0, 120.0], [0.0, 0.0, 320.0, 240.0]]), class_id=np.array([0, 1])
    )
    return supervision.DetectionDataset(list(NAMES), [str(path)], {str(path): found})


EXPECTED = [("person", (0.05, 0.1, 0.5, 0.5)), ("red van", (0.0, 0.0, 1.0, 1.0))]


def test_files_of_supervision_are_read(tmp_path: Path) -> None:
    dataset = _supervision_dataset(tmp_path)
    dataset.as_coco(annotations_path=str(tmp_path / "coco.json"))
    dataset.as_yolo(annotations_directory_path=str(tmp_path / "labels"), data_yaml_path=str(tmp_path / "data.yaml"))
    for read in (coco.read(tmp_path / "coco.json"), yolo.read(tmp_path)):
        assert read.names == NAMES
        (picture,) = read.pictures
        assert [one.label for one in picture.objects] == list(NAMES)
        for one, (_, box) in zip(picture.objects, EXPECTED, strict=True):
            assert one.box == pytest.approx(box, abs=1e-5)


def test_supervision_reads_our_files(tmp_path: Path) -> None:
    _paint(tmp_path / "images" / "a.jpg")
    labels = _labels(*(LabelledObject(label, box) for label, box in EXPECTED), file="a.jpg")
    coco.write(tmp_path / "coco.json", labels)
    yolo.write(tmp_path, labels)
    theirs = [
        supervision.DetectionDataset.from_coco(str(tmp_path / "images"), str(tmp_path / "coco.json")),
        supervision.DetectionDataset.from_yolo(
            str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml")
        ),
    ]
    for dataset in theirs:
        ((_, _, found),) = list(dataset)
        assert found.class_id is not None
        assert [dataset.classes[number] for number in found.class_id] == list(NAMES)
        assert found.xyxy == pytest.approx(np.array([[16, 24, 160, 120], [0, 0, 320, 240]]), abs=0.5)


def test_pycocotools_reads_our_outlines(tmp_path: Path) -> None:
    coco.write(tmp_path / "coco.json", _labels(LabelledObject("person", (0.25, 0.25, 0.5, 0.5), (SQUARE,))))
    theirs = COCO(tmp_path / "coco.json")
    (annotation,) = theirs.loadAnns(theirs.getAnnIds())
    assert annotation["area"] == 80 * 60
    compressed = theirs.annToRLE(annotation)
    assert mask.area(compressed) == 80 * 60
    annotation["segmentation"] = compressed | {"counts": compressed["counts"].decode()}
    (tmp_path / "rle.json").write_text(json.dumps(theirs.dataset))
    (picture,) = coco.read(tmp_path / "rle.json").pictures
    assert picture.objects == (LabelledObject("person", (0.25, 0.25, 0.5, 0.5)),)


def test_turned_boxes_become_outlines(tmp_path: Path) -> None:
    """A square of 60 pixels is turned by 45 degrees: Label Studio turns about a corner, CVAT about the centre."""
    (tmp_path / "cvat.xml").write_text(
        '<annotations><image id="0" name="a.png" width="320" height="240"><box label="person" xtl="100" ytl="100"'
        ' xbr="160" ybr="160" rotation="45"/></image></annotations>'
    )
    value = {"x": 31.25, "y": 100 / 2.4, "width": 18.75, "height": 25, "rotation": 45, "rectanglelabels": ["person"]}
    result = {"type": "rectanglelabels", "original_width": 320, "original_height": 240, "value": value}
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [result]}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    half = 30 * 2**0.5
    for read, centre in ((cvat.read(tmp_path / "cvat.xml"), 130.0), (label_studio.read(tmp_path / "tasks.json"), None)):
        (found,) = read.pictures[0].objects
        x, y = (centre, centre) if centre else (100.0, 100.0 + half)
        assert found.box == pytest.approx(
            ((x - half) / 320, (y - half) / 240, (x + half) / 320, (y + half) / 240), abs=1e-9
        )
        assert len(found.outline[0]) == 4


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/ab12-gate%201.jpg", "3/ab12-gate 1.jpg"),
        ("/data/local-files/?d=night/gate.jpg", "night/gate.jpg"),
        ("https://box/pictures/gate.jpg", "pictures/gate.jpg"),
        ("gate.jpg", "gate.jpg"),
    ],
)
def test_label_studio_addresses_become_names(tmp_path: Path, address: str, name: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"data": {"image": address}, "annotations": [{"result": []}]}]))
    assert [picture.file for picture in label_studio.read(path).pictures] == [name]


def test_newest_finished_annotation_counts(tmp_path: Path) -> None:
    def result(label: str) -> dict[str, Any]:
        value = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": [label]}
        size = {"original_width": 320, "original_height": 240}
        return {"result": [{"type": "rectanglelabels", "value": value, **size}]}

    cancelled = result("bad") | {"was_cancelled": True}
    tasks = [
        {"data": {"image": "a.png"}, "annotations": [result("old"), result("new"), cancelled]},
        {"data": {"image": "b.png"}, "annotations": []},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    read = label_studio.read(tmp_path / "tasks.json")
    assert [[one.label for one in picture.objects] for picture in read.pictures] == [["new"]]
    assert read.left_out == {"picture without a finished annotation": 1}


def _coco(**changes: Any) -> str:
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 320, "height": 240}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
        "categories": [{"id": 1, "name": "person"}],
    }
    for key, change in changes.items():
        content[key][0] |= change
    return json.dumps(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_coco(images={"file_name": "../../etc/passwd"}), r"images\[0\]: .* leaves the folder"),
        (_coco(images={"file_name": "/etc/passwd"}), "leaves the folder"),
        (_coco(images={"file_name": "C:\\x.png"}), "leaves the folder"),
        (_coco(images={"file_name": "a\u0000.png"}), "printable name"),
        (_coco(images={"width": 0}), "size 0x240"),
        (_coco(images={"width": 10**9}), "size 1000000000x240"),
        (_coco(annotations={"image_id": 7}), r"annotations\[0\]: no image has the id 7"),
        (_coco(annotations={"category_id": 7}), "no category has the id 7"),
        (_coco(annotations={"bbox": [0, 0, 1e400, 1]}), r"annotations\[0\].bbox\[2\]"),
        (_coco(annotations={"bbox": [0, 0, 1]}), r"annotations\[0\].bbox"),
        (_coco(annotations={"score": 7}), "score 7"),
        (_coco(categories={"name": "car<loc_5>"}), "model token <loc_5>"),
        (_coco(categories={"name": ""}), "a label has 1 to 200"),
        (_coco(annotations={"bbox": "wide"}), r"annotations\[0\].bbox: must be a list"),
        ('{"images": [5]}', r"images\[0\]: must be an object with keys"),
        ("[" * 100_000, "file: is not JSON"),
        ("", "file: is not JSON"),
    ],
)  # fmt: skip
def test_wrong_coco_file_is_refused_with_place(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "coco.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        coco.read(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", r"labels/a.txt:1: .*no class 2"),
        ("0 0.5 0.5 0.1", "3 numbers"),
        ("0 160 120 20 20", "not pixels"),
        ("0 nan 0.5 0.1 0.1", "finite"),
        ("person 0.5 0.5 0.1 0.1", "class number"),
    ],
)
def test_wrong_yolo_line_is_refused_with_place(tmp_path: Path, line: str, words: str) -> None:
    _paint(tmp_path / "images" / "a.png")
    yolo.write(tmp_path, _labels())
    (tmp_path / "labels" / "a.txt").write_text(line + "\n")
    with pytest.raises(ConfigError, match=words):
        yolo.read(tmp_path)


LAUGHS = "<!DOCTYPE a [" + '<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{n} "{"".join([f"&a{n - 1};"] * 10)}">' for n in range(1, 12)
)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LAUGHS + "]><annotations><label><name>&a11;</name></label></annotations>", "no correct XML"),
        ("<annotations><image", "line 1"),
        ('<annotations><image name="a.png" width="3"/></annotations>', "width and height"),
        ('<annotations><image name="../a.png" width="3" height="3"/></annotations>', "leaves the folder"),
        (
            '<annotations><image name="a" width="3" height="3"><polygon label="b" points=";"/></image></annotations>',
            "corners in pixels",
        ),
    ],
)
def test_wrong_cvat_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        cvat.read(path)


@pytest.mark.parametrize("read", [coco.read, cvat.read, label_studio.read, yolo.read])
def test_huge_file_is_refused_unread(tmp_path: Path, read: Callable[[Path], Labels]) -> None:
    path = tmp_path / "data.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="larger than"):
        read(tmp_path if read is yolo.read else path)


def test_objects_beyond_the_picture_are_clipped_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text(_coco(annotations={"bbox": [310, 230, 50, 50]}))
    assert coco.read(path).pictures[0].objects[0].box == (310 / 320, 230 / 240, 1.0, 1.0)
    path.write_text(_coco(annotations={"bbox": [400, 0, 50, 50]}))
    assert coco.read(path).left_out == {"no area in the picture": 1}
    path.write_text(_coco(annotations={"iscrowd": 1}))
    assert coco.read(path).left_out == {"group of objects (iscrowd)": 1}


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    _paint(path)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    assert size_of(path) == (HEIGHT, WIDTH)
    assert read_picture(path).shape == (WIDTH, HEIGHT, 3)


@pytest.mark.parametrize("name", ["a/../../b.png", "..", "", "x" * 300, "a" + "/b" * 600])
def test_unsafe_picture_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"leaves|name"):
        safe_file(name)

"""COCO JSON (https://cocodataset.org/#format-data): object detection and instance segmentation.

An annotation of a group (`iscrowd`) names no single object and is left out. Run-length masks are read as their box.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from pipelines.dataset.labels import Collector, LabelledObject, LabelledPicture, Labels, pixels, read_bytes
from streamer.core import atomic_file
from streamer.core.json_input import parse_json

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Category(TypedDict):
    id: int
    name: str


class _Image(TypedDict):
    id: int
    file_name: str
    width: int
    height: int


class _Annotation(TypedDict):
    image_id: int
    category_id: int
    bbox: tuple[Number, Number, Number, Number]
    segmentation: NotRequired[list[Annotated[list[Number], Field(min_length=6)]] | dict[str, Any]]
    iscrowd: NotRequired[int]
    score: NotRequired[Number]


class _File(TypedDict):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


_ADAPTER = TypeAdapter(_File)


def read(path: Path) -> Labels:
    """Read a COCO file. Raises ConfigError for a file that is wrong, with the place."""
    data, collector = parse_json(str(path), _ADAPTER, read_bytes(path)), Collector(path)
    names: dict[int, str] = {}
    for number, category in enumerate(data["categories"]):
        where = f"categories[{number}]"
        if category["id"] in names:
            raise collector.error(where, f"the id {category['id']} is given twice")
        names[category["id"]] = collector.label(where, category["name"])
    images: dict[int, _Image] = {}
    for number, image in enumerate(data["images"]):
        where = f"images[{number}]"
        if image["id"] in images:
            raise collector.error(where, f"the id {image['id']} is given twice")
        collector.size(where, image["width"], image["height"])
        images[image["id"]] = image | {"file_name": collector.file(where, image["file_name"])}
    objects: dict[int, list[LabelledObject]] = defaultdict(list)
    for number, annotation in enumerate(data["annotations"]):
        where = f"annotations[{number}]"
        if annotation["image_id"] not in images:
            raise collector.error(where, f"no image has the id {annotation['image_id']}")
        if annotation["category_id"] not in names:
            raise collector.error(where, f"no category has the id {annotation['category_id']}")
        image = images[annotation["image_id"]]
        label = names[annotation["category_id"]]
        if (found := _object(collector, where, annotation, image, label)) is not None:
            objects[annotation["image_id"]].append(found)
    pictures = [
        LabelledPicture(image["file_name"], image["width"], image["height"], tuple(objects[key]))
        for key, image in images.items()
    ]
    return Labels(tuple(names.values()), tuple(pictures), dict(collector.left_out))


def _object(
    collector: Collector, where: str, annotation: _Annotation, image: _Image, label: str
) -> LabelledObject | None:
    if annotation.get("iscrowd"):
        collector.left_out["group of objects (iscrowd)"] += 1
        return None
    width, height = image["width"], image["height"]
    x, y, w, h = annotation["bbox"]
    mask = annotation.get("segmentation", [])
    outline = [] if isinstance(mask, dict) else [_corners(part, width, height) for part in mask]
    box = (x / width, y / height, (x + w) / width, (y + h) / height)
    return collector.object(where, label, box, outline, annotation.get("score"))


def _corners(part: list[float], width: int, height: int) -> list[tuple[float, float]]:
    return [(x / width, y / height) for x, y in zip(part[::2], part[1::2], strict=False)]


def write(path: Path, labels: Labels) -> None:
    """Write a COCO file; ids are numbers from 1 in the order of the labels. Raises OSError."""
    numbers = {name: number for number, name in enumerate(labels.names, start=1)}
    images, annotations = [], list[dict[str, Any]]()
    for key, picture in enumerate(labels.pictures, start=1):
        images.append({"id": key, "file_name": picture.file, "width": picture.width, "height": picture.height})
        for found in picture.objects:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": key, "category_id": numbers[found.label]}
                | dict(_values(found, picture))
            )
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    atomic_file.write(path, json.dumps(content, ensure_ascii=False) + "\n")


def _values(found: LabelledObject, picture: LabelledPicture) -> Iterator[tuple[str, Any]]:
    width, height = picture.width, picture.height
    x0, y0, x1, y1 = found.box
    box = [pixels(x0, width), pixels(y0, height), pixels(x1 - x0, width), pixels(y1 - y0, height)]
    outline = [[value for x, y in part for value in (pixels(x, width), pixels(y, height))] for part in found.outline]
    yield "bbox", box
    yield "area", round(sum(map(_area, outline)) if outline else box[2] * box[3], 3)
    yield "segmentation", outline
    yield "iscrowd", 0
    if found.score is not None:
        yield "score", found.score


def _area(part: list[float]) -> float:
    """Return the area of a polygon x, y, x, y, … by the shoelace formula."""
    xs, ys = part[::2], part[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2

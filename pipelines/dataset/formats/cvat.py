"""CVAT for images 1.1 (https://docs.cvat.ai, XML): boxes and polygons; `group_id` joins the parts of one outline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from pipelines.dataset.labels import (
    MAX_FILE_BYTES,
    Collector,
    LabelledObject,
    LabelledPicture,
    Labels,
    pixels,
    rotated,
)
from streamer.core import atomic_file
from streamer.core.boxes import Rect, bounds
from streamer.types import Point

KINDS = ("box", "polygon")


def read(path: Path) -> Labels:
    """Read an `annotations.xml`. Raises ConfigError for a file that is wrong, with the place."""
    collector = Collector(path)
    names: dict[str, None] = {}
    pictures = []
    for element in _elements(collector):
        if element.tag == "label":
            if (name := element.findtext("name")) is not None:
                names[collector.label("meta", name)] = None
        else:
            picture = _picture(collector, element)
            names.update(dict.fromkeys(one.label for one in picture.objects))
            pictures.append(picture)
    return Labels(tuple(names), tuple(pictures), dict(collector.left_out))


def _elements(collector: Collector) -> Iterator[ElementTree.Element]:
    """Yield the labels and images of a file, one at a time in memory.

    expat refuses entities that grow, and ElementTree opens no external ones.
    """
    try:
        if collector.path.stat().st_size > MAX_FILE_BYTES:
            raise collector.error("file", f"larger than {MAX_FILE_BYTES >> 20} MiB")
        with collector.path.open("rb") as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag in ("label", "image"):
                    yield element
                    element.clear()
    except OSError as error:
        raise collector.error("file", f"cannot be read: {error.strerror}") from None
    except ElementTree.ParseError as error:
        line, column = error.position
        raise collector.error(f"line {line}, column {column}", "is no correct XML") from None


def _picture(collector: Collector, image: ElementTree.Element) -> LabelledPicture:
    where = f"image {image.get('name', '')!r}"
    try:
        width, height = int(image.attrib["width"]), int(image.attrib["height"])
    except (KeyError, ValueError):
        raise collector.error(where, "needs width and height") from None
    collector.size(where, width, height)
    name = collector.file(where, image.get("name", ""))
    objects: list[LabelledObject] = []
    groups: dict[str, int] = {}
    for number, shape in enumerate(image):
        if shape.tag not in KINDS:
            collector.left_out[f"kind {shape.tag[:40]}"] += 1
            continue
        found = _object(collector, f"{where}, shape {number}", shape, width, height)
        if found is None:
            continue
        group = shape.get("group_id", "0")
        if group != "0" and found.outline and group in groups:
            objects[groups[group]] = _joined(objects[groups[group]], found)
            continue
        if found.outline:
            groups[group] = len(objects)
        objects.append(found)
    return LabelledPicture(name, width, height, tuple(objects))


def _joined(first: LabelledObject, part: LabelledObject) -> LabelledObject:
    """Return the object with one more part of its outline."""
    corners = [(first.box[0], first.box[1]), (first.box[2], first.box[3]), part.box[:2], part.box[2:]]
    return LabelledObject(first.label, bounds(corners), first.outline + part.outline)


def _object(
    collector: Collector, where: str, shape: ElementTree.Element, width: int, height: int
) -> LabelledObject | None:
    label = collector.label(where, shape.get("label", ""))
    try:
        if shape.tag == "polygon":
            points = [_point(pair, width, height) for pair in shape.attrib["points"].split(";")]
            return collector.object(where, label, outline=[points])
        x0, y0, x1, y1 = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        turn = float(shape.get("rotation", 0))
    except (KeyError, ValueError):
        raise collector.error(where, "needs corners in pixels") from None
    box: Rect = (x0 / width, y0 / height, x1 / width, y1 / height)
    if not turn:
        return collector.object(where, label, box)
    corners = rotated(box, turn, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), width, height)
    return collector.object(where, label, bounds(corners), [corners])


def _point(pair: str, width: int, height: int) -> Point:
    x, y = pair.split(",")
    return float(x) / width, float(y) / height


def write(path: Path, labels: Labels) -> None:
    """Write an `annotations.xml` for import into CVAT. It has no place for scores. Raises OSError."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines.append("  <meta><job><labels>")
    lines += [f"    <label><name>{escape(name)}</name></label>" for name in labels.names]
    lines.append("  </labels></job></meta>")
    for key, picture in enumerate(labels.pictures):
        size = f'width="{picture.width}" height="{picture.height}"'
        lines.append(f'  <image id="{key}" name={quoteattr(picture.file)} {size}>')
        for group, found in enumerate(picture.objects, start=1):
            lines += _shapes(found, picture, group if len(found.outline) > 1 else 0)
        lines.append("  </image>")
    atomic_file.write(path, "\n".join([*lines, "</annotations>", ""]))


def _shapes(found: LabelledObject, picture: LabelledPicture, group: int) -> Iterator[str]:
    """Yield the elements of an object: its box, or each part of its outline."""
    width, height = picture.width, picture.height
    common = f'label={quoteattr(found.label)} source="manual" occluded="0"'
    if not found.outline:
        x0, y0, x1, y1 = found.box
        corners = (
            f'xtl="{pixels(x0, width)}" ytl="{pixels(y0, height)}" xbr="{pixels(x1, width)}" ybr="{pixels(y1, height)}"'
        )
        yield f'    <box {common} {corners} z_order="0"/>'
    for part in found.outline:
        points = ";".join(f"{pixels(x, width)},{pixels(y, height)}" for x, y in part)
        joined = f' group_id="{group}"' if group else ""
        yield f'    <polygon {common} points="{points}" z_order="0"{joined}/>'

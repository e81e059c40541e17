"""Draws overlays on images, with those annotators of `supervision` that are fast enough for every frame."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

from streamer.events.result_data import EventPoints
from streamer.types import Box, Image, Point, Zone
from streamer.video.overlay import Layer, Overlay

Corners = npt.NDArray[np.int32]
"""Shape (points, 2), in pixels."""
FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, YELLOW = (255, 255, 255), (60, 220, 255)
Lines = Mapping[str, tuple[Point, Point]]
NO_LINES: Lines = MappingProxyType({})
MAX_LINES = 4
"""Lines of all captions together."""
COLOURS = sv.ColorPalette.DEFAULT


class Painter:
    """Draws on images of one size, in place: uint8, shape (height, width, 3), BGR."""

    def __init__(self, width: int, height: int, zones: Iterable[Zone] = (), lines: Lines = NO_LINES) -> None:
        self.size = width, height
        named = [*((zone.name, zone.points, True) for zone in zones), *((name, lines[name], False) for name in lines)]
        self._outlines = [
            (name, np.round(np.array(points) * self.size).astype(np.int32), is_closed)
            for name, points, is_closed in named
        ]
        self._scale = max(0.35, min(2.0, height / 960))
        self._thick = max(1, round(height / 720))
        self._line = max(2, round(height / 360))
        self._pad = max(3, round(height / 120))
        self._boxes = sv.BoxAnnotator(thickness=self._line)
        self._labels = sv.LabelAnnotator(
            text_scale=self._scale, text_thickness=self._thick, text_padding=self._pad // 2
        )

    def draw(self, image: Image, overlay: Overlay, at: float) -> None:
        """Draw zones, lines, overlay and time. `at`: unix second of the frame's capture."""
        for name, points, is_closed in self._outlines:
            self._outline(image, name, points, is_closed)
        for layer in overlay.layers:
            if layer.strength >= 1:
                self._layer(image, layer, overlay.descriptions)
            else:
                faded = image.copy()
                self._layer(faded, layer, overlay.descriptions)
                cv2.addWeighted(faded, layer.strength, image, 1 - layer.strength, 0, dst=image)
        self._captions(image, overlay.captions)
        self._header(image, at, overlay.note)

    def draw_lost(self, image: Image, message: str, at: float) -> None:
        """Grey out an outdated image and write `message` over it. `at`: unix second now."""
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        cv2.convertScaleAbs(grey, dst=image, alpha=0.45)
        width, height = self.size
        scale = 2 * self._scale
        (wide, high), _ = cv2.getTextSize(message, FONT, scale, 2 * self._thick)
        place = max(0, (width - wide) // 2), (height + high) // 2
        cv2.putText(image, message, place, FONT, scale, WHITE, 2 * self._thick, cv2.LINE_AA)
        self._header(image, at, None)

    def _outline(self, image: Image, name: str, corners: Corners, is_closed: bool) -> None:
        """Draw a thin outline, and the name at its upper left corner."""
        cv2.polylines(image, [corners], is_closed, WHITE, self._thick, cv2.LINE_AA)
        scale = 0.8 * self._scale
        (wide, high), _ = cv2.getTextSize(name, FONT, scale, self._thick)
        x, y = min(corners.tolist(), key=sum)
        x, y = max(0, min(x, self.size[0] - wide - 2 * self._pad)), max(0, min(y, self.size[1] - high - 2 * self._pad))
        self._darken(image[y : y + high + self._pad, x : x + wide + self._pad])
        place = x + self._pad // 2, y + high + self._pad // 2
        cv2.putText(image, name, place, FONT, scale, WHITE, self._thick, cv2.LINE_AA)

    def _layer(self, image: Image, layer: Layer, descriptions: Mapping[int, str]) -> None:
        for outline in layer.outlines:
            corners = np.round(np.array(outline.points) * self.size).astype(np.int64)
            sv.draw_polygon(image, corners, COLOURS.by_idx(_colour(outline.label)), self._line)
        if layer.boxes:
            self._boxes.annotate(image, self._detections(layer.boxes))
        labelled = [*layer.boxes, *map(_bounding_box, layer.outlines)]
        if labelled:
            texts = [_label_text(box, descriptions) for box in labelled]
            self._labels.annotate(image, self._detections(labelled), texts)

    def _detections(self, boxes: Sequence[Box]) -> sv.Detections:
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes])
        pixels = np.clip(corners, 0, 1) * (self.size * 2)
        return sv.Detections(xyxy=pixels, class_id=np.array([_colour(box.label) for box in boxes]))

    def _captions(self, image: Image, captions: Sequence[str]) -> None:
        """Write the captions at the bottom, wrapped, on a darkened band."""
        if not captions:
            return
        width, height = self.size
        lines = [
            line for caption in captions for line in wrap(caption, width - 2 * self._pad, self._scale, self._thick)
        ]
        if len(lines) > MAX_LINES:
            lines = [*lines[: MAX_LINES - 1], lines[MAX_LINES - 1] + " ..."]
        step = cv2.getTextSize("Ag", FONT, self._scale, self._thick)[0][1] + 2 * self._pad
        top = max(0, height - step * len(lines) - self._pad)
        self._darken(image[top:])
        for number, line in enumerate(lines):
            place = self._pad, top + step * (number + 1) - self._pad // 2
            cv2.putText(image, line, place, FONT, self._scale, WHITE, self._thick, cv2.LINE_AA)

    def _header(self, image: Image, at: float, note: str | None) -> None:
        """Write the time at the top left, and the note beside it."""
        x, time = 0, f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S %Z}"
        for text, colour in ((time, WHITE), (note, YELLOW)):
            if text:
                (wide, high), _ = cv2.getTextSize(text, FONT, self._scale, self._thick)
                self._darken(image[: high + 2 * self._pad, x : x + wide + 2 * self._pad])
                place = x + self._pad, high + self._pad
                cv2.putText(image, text, place, FONT, self._scale, colour, self._thick, cv2.LINE_AA)
                x += wide + 2 * self._pad

    def _darken(self, part: Image) -> None:
        if part.size:  # a text may lie outside of a small picture
            part[:] = cv2.convertScaleAbs(part, alpha=0.4)


def wrap(text: str, width: int, scale: float, thick: int = 1) -> list[str]:
    """Split `text` into lines of at most `width` pixels, between words, or within a word longer than a line."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if _text_width(longer, scale, thick) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and _text_width(lines[-1] + letter, scale, thick) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


def _text_width(text: str, scale: float, thick: int) -> int:
    return int(cv2.getTextSize(text, FONT, scale, thick)[0][0])


def _label_text(box: Box, descriptions: Mapping[int, str]) -> str:
    score = f" {box.score:.2f}" if box.score is not None else ""
    description = descriptions.get(box.track) if box.track is not None else None
    return f"{box.label or '?'}{score}{f': {description}' if description else ''}"[:80]


def _colour(label: str) -> int:
    """Return the palette index of a label; the same in every process and run."""
    return zlib.crc32(label.encode()) % len(COLOURS.colors)


def _bounding_box(outline: EventPoints) -> Box:
    xs, ys = zip(*outline.points, strict=True)
    return Box(min(xs), min(ys), max(xs), max(ys), outline.label, outline.score)

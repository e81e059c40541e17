"""Crops a frame to the part that a task sees, and maps the answer back to the full frame.

A task with a zone sees the bounding box of the polygon, black outside it. A task with a region and `crop: native` sees
the pixels around the region. Nothing is resized here: the pipeline resizes the picture that it gets.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import ceil, floor
from typing import NamedTuple

import cv2
import numpy as np

from streamer.core.places import to_whole
from streamer.inference.follow_ups import with_region
from streamer.types import Frame, Image, Job, Pixels, Region, Result, Task, Zone

MARGIN = 2.5
"""Margin on each side of a region, as a multiple of its shorter side: a line of text has a sixth of the crop's height.
The shipped model reads most of the small words in a 4K frame with 2 to 2.5, far fewer with 1.5 or 3."""
MAX_SHARE = 0.75
"""Largest crop, as a part of the picture's area. A larger one shows the region hardly larger than the whole picture,
whose image tokens other tasks share."""
_SUBPIXELS = 4
"""Fractional bits of the corner coordinates that OpenCV gets."""


class View(NamedTuple):
    """The part of a frame that a task sees."""

    pixels: Pixels
    zone: Zone | None
    """The picture is black outside its polygon. None: nothing is masked."""


def crop(job: Job, pictures: dict[View, Frame]) -> Job:
    """Return the job with the part of its frame that its task sees; its prompt's region is a fraction of that part.

    `pictures` keeps the parts of this frame: tasks that see the same one share a picture, and so a vision pass. Only
    pictures of zones are copies.
    """
    due, view = job.due, view_of(job.due.task, job.frame)
    if view is None:
        return job
    if region := due.task.params.prompt_region:
        due = replace(due, task=with_region(due.task, _in_view(region, view.pixels, job.frame)))
    return Job(due, _picture(view, job.frame, pictures))


def uncrop(result: Result, job: Job) -> Result:
    """Return the result of `crop(job)` as the result of `job`, with its places in the full frame."""
    view = view_of(job.due.task, job.frame)
    if view is None:
        return result
    is_native = view != zone_view(job.due.task.zone, job.frame)
    height, width = job.frame.image.shape[:2]
    answer = to_whole(result.answer, view.pixels, width, height)
    return replace(result, job=job, answer=answer, crop=view.pixels if is_native else None)


def view_of(task: Task, frame: Frame) -> View | None:
    """Return the part of the frame that the task sees; None: the whole frame."""
    whole = zone_view(task.zone, frame)
    region: Region | None = task.params.prompt_region
    if task.crop is None or region is None:
        return whole
    height, width = frame.image.shape[:2]
    return _around(region, whole or View((0, 0, width, height), None), width, height) or whole


def zone_view(zone: Zone | None, frame: Frame) -> View | None:
    """Return the part of the frame in the zone's bounding box."""
    height, width = frame.image.shape[:2]
    return None if zone is None else View(box_of(zone, width, height), zone)


def box_of(zone: Zone, width: int, height: int) -> Pixels:
    """Return the bounding box of the zone in a frame of that size, in whole pixels."""
    xs, ys = [x for x, _ in zone.points], [y for _, y in zone.points]
    left, top = min(floor(min(xs) * width), width - 1), min(floor(min(ys) * height), height - 1)
    return left, top, max(left + 1, ceil(max(xs) * width)), max(top + 1, ceil(max(ys) * height))


def _around(region: Region, whole: View, width: int, height: int) -> View | None:
    """Return the part of `whole` with the region and its margin; None if it is larger than MAX_SHARE."""
    left, top, right, bottom = whole.pixels
    margin = MARGIN * min((region.x1 - region.x0) * width, (region.y1 - region.y0) * height)
    x0, x1 = _span(region.x0 * width - margin, region.x1 * width + margin, left, right)
    y0, y1 = _span(region.y0 * height - margin, region.y1 * height + margin, top, bottom)
    is_large = (x1 - x0) * (y1 - y0) > MAX_SHARE * (right - left) * (bottom - top)
    return None if is_large else View((x0, y0, x1, y1), whole.zone)


def _span(start: float, end: float, low: int, high: int) -> tuple[int, int]:
    """Return the whole pixels from `start` to `end`; at an edge they are moved inwards, not cut."""
    first, size = floor(start), min(max(1, ceil(end) - floor(start)), high - low)
    first = min(max(first, low), high - size)
    return first, first + size


def _picture(view: View, frame: Frame, pictures: dict[View, Frame]) -> Frame:
    """Return the frame with the pixels of the view."""
    if view not in pictures:
        whole, (left, top, right, bottom) = zone_view(view.zone, frame), view.pixels
        if view == whole:
            assert view.zone is not None
            pictures[view] = crop_to_zone(view.zone, frame)
        else:
            x, y = (0, 0) if whole is None else whole.pixels[:2]
            base = frame if whole is None else _picture(whole, frame, pictures)
            pictures[view] = replace(frame, image=base.image[top - y : bottom - y, left - x : right - x])
    return pictures[view]


def crop_to_zone(zone: Zone, frame: Frame) -> Frame:
    """Return a copy of the zone's bounding box, black outside the polygon."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = box_of(zone, width, height)
    part = cv2.copyTo(frame.image[top:bottom, left:right], _mask(zone, width, height))
    image: Image = np.ascontiguousarray(part, np.uint8)
    image.flags.writeable = False
    return replace(frame, image=image)


@lru_cache(maxsize=64)
def _mask(zone: Zone, width: int, height: int) -> Image:
    left, top, right, bottom = box_of(zone, width, height)
    # fillPoly has the origin at the centre of a pixel.
    corners = (np.array(zone.points) * (width, height) - (left + 0.5, top + 0.5)) * (1 << _SUBPIXELS)
    mask: Image = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], (255,), shift=_SUBPIXELS)
    return mask


def _in_view(region: Region, pixels: Pixels, frame: Frame) -> Region:
    """Return a region of the full frame as fractions of a part of it, cut at its edges."""
    height, width = frame.image.shape[:2]
    left, top, right, bottom = pixels
    xs = [min(max((x * width - left) / (right - left), 0.0), 1.0) for x in (region.x0, region.x1)]
    ys = [min(max((y * height - top) / (bottom - top), 0.0), 1.0) for y in (region.y0, region.y1)]
    return Region(xs[0], ys[0], xs[1], ys[1])

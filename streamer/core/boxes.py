"""Rectangles with sides parallel to those of the picture."""

from __future__ import annotations

Rect = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the frame."""


def area(box: Rect) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a: Rect, b: Rect) -> float:
    """Return the area that two boxes share."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Rect, b: Rect) -> float:
    """Return the intersection over union of two boxes; 0 for boxes without an area."""
    common = intersection(a, b)
    union = area(a) + area(b) - common
    return common / union if union > 0 else 0.0

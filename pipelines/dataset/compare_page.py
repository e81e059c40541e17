"""The report of a comparison as one HTML file, with its pictures in it and nothing that runs or is loaded.

Every text in it comes from outside: labels, answers and names are escaped, and the page forbids scripts to itself.
"""

from __future__ import annotations

import base64
import html
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from pipelines.dataset.compare import Answers, ExampleSet, Question, Row, Side, objects_of, text_of
from pipelines.dataset.labels import LabelledObject
from streamer.core.boxes import iou
from streamer.core.errors import ConfigError
from streamer.types import Answer, Image

SIDES = ("before", "after")
"""Columns of the first and of the second model."""
SHOWN = 24
"""Most pictures in a report."""
SHOWN_SIDE = 480
"""Longer side of a picture in pixels."""
MAX_PICTURE_BYTES = 6 << 20
"""Most bytes of all JPEG files in a report, before their base64 encoding."""
SHOWN_TEXTS = 12
"""Most questions with a text as answer below one picture."""
MAX_TEXT = 300
"""Most characters of an answer."""

_STYLE = """
:root { color-scheme: light dark; --back: #f4f5f7; --paper: #fff; --ink: #16191d; --soft: #5c6570; --edge: #dfe3e8;
  --good: #15803d; --bad: #b42318; --miss: #a15c07; font: 15px/1.45 system-ui, "Noto Sans", "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { --back: #0f1216; --paper: #181c22; --ink: #e7eaee; --soft: #98a2ae;
  --edge: #2a3038; --good: #4ade80; --bad: #ff8a7a; --miss: #f0b429; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--back); color: var(--ink); }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .soft, figcaption { color: var(--soft); }
.wide { overflow-x: auto; background: var(--paper); border: 1px solid var(--edge); border-radius: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-top: 1px solid var(--edge); white-space: nowrap; }
th { font-weight: 600; } thead th { border-top: 0; color: var(--soft); font-weight: 500; }
th:first-child { text-align: left; white-space: normal; min-width: 9rem; overflow-wrap: break-word; }
.better { color: var(--good); } .worse { color: var(--bad); }
details { margin: .5rem 0; } summary { cursor: pointer; } details .wide { margin-top: .5rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .75rem; }
figure { margin: 0 0 1.25rem; } figcaption { margin-bottom: .3rem; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; border-radius: 8px; background: #000; }
svg rect { fill: none; stroke-width: 2; } svg text { font: 12px system-ui, sans-serif; fill: #fff; paint-order: stroke;
  stroke: #000; stroke-width: 3px; }
.right { stroke: #22c55e; } .wrong { stroke: #ff5c4d; stroke-dasharray: 8 3; }
.missed { stroke: #ffb020; stroke-dasharray: 2 4; }
"""
_LEGEND = (
    "Solid green: right. Dashed red: wrong. Dotted orange: an object that the model misses. Boxes below the score of "
    "their row are left out."
)


def page(
    names: tuple[str, str],
    rows: Sequence[Row],
    sets: Sequence[ExampleSet],
    answers: tuple[Answers, Answers],
    read: Callable[[str], Image],
) -> str:
    """Return the report. `read` returns the pixels of a picture; pictures that cannot be read are left out."""
    body = [
        f"<h1>{_e(names[0])} → {_e(names[1])}</h1>",
        f"<p>{_e(summary(rows))}</p>",
        _table(rows),
        *(_details(row) for row in rows if row.sides[0].boxes is not None),
        "<h2>Pictures</h2>",
        f"<p class=soft>{_LEGEND}</p>",
        *_figures(rows, sets, answers, read),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(names[0])} → {_e(names[1])}</title><style>{_STYLE}</style>"
    )
    content = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def summary(rows: Sequence[Row]) -> str:
    """Return the judgement of the second model in one or two sentences."""
    counts = {verdict: [row for row in rows if row.verdict == verdict] for verdict in ("better", "equal", "worse")}
    text = f"The second model is better in {len(counts['better'])}, equal in {len(counts['equal'])} and worse in "
    text += f"{len(counts['worse'])} of {len(rows)} rows."
    if counts["worse"]:
        text += f" Worse: {', '.join(f'{row.task} ({row.examples})' for row in counts['worse'])}."
    return text


def _e(text: object) -> str:
    """Return a text for HTML: escaped, without characters that cannot be printed or encoded."""
    return html.escape("".join(character if character.isprintable() else "\ufffd" for character in str(text)))


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else _e(value)


def _cells(values: Iterable[object], tag: str = "td") -> str:
    return "".join(f"<{tag}>{_number(value)}</{tag}>" for value in values)


def _html_table(head: Iterable[object], lines: Iterable[str]) -> str:
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=wide><table><thead><tr>{_cells(head, 'th')}</tr></thead><tbody>{rows}</tbody></table></div>"


def _table(rows: Sequence[Row]) -> str:
    def line(row: Row) -> str:
        first, second = (side.values[row.measure] for side in row.sides)
        change = "-" if row.change is None else f"{row.change:+.3f}"
        failed = sum(side.failed for side in row.sides)
        head = f"<th>{_e(row.task)}<br><span class=soft>{_e(row.examples)}</span></th>"
        tail = f"<td class={row.verdict}>{change} {row.verdict}</td>"
        return head + _cells([row.questions, row.measure, first, second]) + tail + _cells([failed])

    return _html_table(["task", "questions", "measure", *SIDES, "change", "no answer"], map(line, rows))


def _details(row: Row) -> str:
    values = [side.values for side in row.sides]
    measures = _html_table(
        ["", *SIDES], (f"<th>{_e(name)}</th>" + _cells(one[name] for one in values) for name in values[0])
    )
    return (
        f"<h2>{_e(row.task)} <span class=soft>{_e(row.examples)}</span></h2>{measures}"
        f"<details><summary>Labels</summary>{_labels(row.sides)}</details>"
        f"<details><summary>Calibration: do scores say how often a box is right?</summary>"
        f"{_reliability(row.sides)}</details>"
    )


def _labels(sides: Sequence[Side]) -> str:
    tables = [side.boxes.by_label for side in sides if side.boxes is not None]

    def line(label: str) -> str:
        scores = [table.get(label) for table in tables]
        cells = [None if one is None else value for one in scores for value in _ap(one)]
        return f"<th>{_e(label)}</th>" + _cells([max(one.expected if one else 0 for one in scores), *cells])

    head = ["label", "objects", *(f"{measure} {name}" for name in SIDES for measure in ("AP50", "AP"))]
    return _html_table(head, (line(label) for label in sorted({label for table in tables for label in table})))


def _ap(score: Any) -> tuple[float | None, float | None]:
    return (None, None) if score is None else (score.ap50, score.ap)


def _reliability(sides: Sequence[Side]) -> str:
    tables = [{row.least: row for row in side.boxes.reliability} for side in sides if side.boxes is not None]

    def line(least: float) -> str:
        found = [table.get(least) for table in tables]
        cells = [value for one in found for value in ((one.boxes, one.score, one.right) if one else (0, None, None))]
        return f"<th>{least:.1f} to {least + 0.1:.1f}</th>" + _cells(cells)

    head = ["score", *(f"{column} {name}" for name in SIDES for column in ("boxes", "mean score", "right"))]
    return _html_table(head, map(line, sorted({least for table in tables for least in table})))


@dataclass(frozen=True, slots=True)
class _Marked:
    """A box of a picture with its CSS class."""

    box: LabelledObject
    kind: str


def _marked(found: Sequence[LabelledObject], truth: Sequence[LabelledObject], least: float) -> list[_Marked]:
    """Return the boxes from a score on, right or wrong, and the objects that they miss."""
    free, marked = list(truth), list[_Marked]()
    for one in sorted(found, key=lambda one: one.certainty, reverse=True):
        if one.certainty < least:
            break
        same = [other for other in free if other.label == one.label and iou(one.box, other.box) >= 0.5]
        if same:
            free.remove(max(same, key=lambda other: iou(one.box, other.box)))
        marked.append(_Marked(one, "right" if same else "wrong"))
    return marked + [_Marked(one, "missed") for one in free]


def _figures(
    rows: Sequence[Row],
    sets: Sequence[ExampleSet],
    answers: tuple[Answers, Answers],
    read: Callable[[str], Image],
) -> Iterator[str]:
    """Yield the pictures about which the models differ most."""
    truth: dict[str, dict[Question, Answer]] = defaultdict(dict)
    for one in sets:
        for question, some in one.truth.items():
            truth[question.image][question] = some[0]
    limits = {row.task: [side.boxes.least if side.boxes else 0.0 for side in row.sides] for row in reversed(rows)}
    order = sorted(truth, key=lambda image: -_difference(truth[image], answers, limits))
    left = MAX_PICTURE_BYTES
    shown = 0
    for image in order:
        if shown == SHOWN:
            break
        try:
            jpeg, size = _jpeg(read(image))
        except ConfigError:
            continue
        if len(jpeg) > left:
            break
        left -= len(jpeg)
        shown += 1
        yield _figure(f"p{shown}", image, jpeg, size, truth[image], answers, limits)
    if len(order) > shown:
        yield f"<p class=soft>{len(order) - shown} further pictures are not shown.</p>"


def _difference(
    truth: Mapping[Question, Answer], answers: tuple[Answers, Answers], limits: Mapping[str, Sequence[float]]
) -> int:
    """Return the number of answers and boxes in which two models differ about a picture."""
    total = 0
    for question, right in truth.items():
        kinds = []
        for side, found in enumerate(answers):
            answer = found.get(question, Answer())
            marked = _marked(objects_of(question, answer), objects_of(question, right), limits[question.task][side])
            kinds.append(([one.kind for one in marked].count("right"), len(marked), text_of(answer)))
        total += abs(kinds[0][0] - kinds[1][0]) + abs(kinds[0][1] - kinds[1][1]) + (kinds[0][2] != kinds[1][2])
    return total


def _jpeg(image: Image) -> tuple[bytes, tuple[int, int]]:
    """Return a small JPEG of a picture, with its width and height."""
    height, width = image.shape[:2]
    scale = min(1.0, SHOWN_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    _, data = cv2.imencode(
        ".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    return data.tobytes(), size


def _figure(
    key: str,
    image: str,
    jpeg: bytes,
    size: tuple[int, int],
    truth: Mapping[Question, Answer],
    answers: tuple[Answers, Answers],
    limits: Mapping[str, Sequence[float]],
) -> str:
    """Return a picture twice, with the boxes and texts of each model. Its bytes are in the page once."""
    data = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    pixels = f'<image id="{key}" href="{data}" width="{size[0]}" height="{size[1]}"/>'
    sides = []
    for side, (name, found) in enumerate(zip(SIDES, answers, strict=True)):
        marked = [
            one
            for question, right in truth.items()
            for one in _marked(
                objects_of(question, found.get(question, Answer())),
                objects_of(question, right),
                limits[question.task][side],
            )
        ]
        shapes = "".join(_shape(one, size) for one in marked)
        kinds = [one.kind for one in marked]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("right", "wrong", "missed"))
        view = f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{name}: {counts}">'
        picture = pixels if side == 0 else f'<use href="#{key}"/>'
        texts = "".join(_text(question, right, found) for question, right in list(truth.items())[:SHOWN_TEXTS])
        sides.append(f"<div><p>{name}: <span class=soft>{counts}</span></p>{view}{picture}{shapes}</svg>{texts}</div>")
    return f"<figure><figcaption>{_e(image)}</figcaption><div class=pair>{''.join(sides)}</div></figure>"


def _shape(marked: _Marked, size: tuple[int, int]) -> str:
    x0, y0, x1, y1 = (value * side for value, side in zip(marked.box.box, size * 2, strict=True))
    score = "" if marked.box.score is None else f" {marked.box.score:.2f}"
    place = f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"'
    words = (
        ""
        if marked.kind == "missed"
        else f'<text x="{x0 + 3:.1f}" y="{y0 + 13:.1f}">{_e(marked.box.label)}{score}</text>'
    )
    return (
        f'<rect class="{marked.kind}" {place}><title>{marked.kind}: {_e(marked.box.label)}{score}</title></rect>{words}'
    )


def _text(question: Question, right: Answer, found: Answers) -> str:
    """Return the texts of an answer and of the truth; nothing for answers without text."""
    if not (expected := text_of(right)):
        return ""
    said = text_of(found.get(question, Answer())) or "-"
    kind = "better" if said == expected else "worse"
    return f"<p><span class=soft>{_e(question.task)}:</span> <span class={kind}>{_e(said[:MAX_TEXT])}</span></p>"

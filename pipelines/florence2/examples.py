"""Training examples in the JSON Lines of Florence-2 fine-tuning recipes: `image`, `prefix` and `suffix`.

`prefix` is the task's token with its text or region (`<OD>`, `<OPEN_VOCABULARY_DETECTION>a ladder`), `suffix` is the
answer as the model writes it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from pipelines.florence2.answer_text import answer_text
from pipelines.florence2.parse import parse
from pipelines.florence2.tasks import BINS, FLORENCE_TASKS, MODEL_TOKEN, location_tokens
from streamer.core.errors import ConfigError
from streamer.core.json_input import read_json_lines
from streamer.types import Answer, Region

_TOKENS = {row.token: row.name for row in FLORENCE_TASKS.values()}
_PREFIX = re.compile(r"(<[A-Z_]+>)(.*)", re.DOTALL)
_NO_LOCATION = re.compile(r"<loc_(?!\d{1,3}>)[^<>]{0,20}>?")
_REGION = re.compile(r"<loc_(\d{1,3})><loc_(\d{1,3})><loc_(\d{1,3})><loc_(\d{1,3})>")


@dataclass(frozen=True, slots=True)
class Example:
    """A picture, a prompt about it and the right answer."""

    image: str
    """Path of the picture, relative to the file of examples."""
    task: str
    answer: Answer
    text: str | None = None
    """Text of the prompt, for the tasks that take one."""
    region: Region | None = None
    """Region of the prompt, for the tasks that take one. Read from a file it is in the middle of its bins."""


class _Line(TypedDict):
    image: str
    prefix: str
    suffix: str


_ADAPTER = TypeAdapter(_Line)


def read_examples(path: Path) -> Iterator[Example]:
    """Yield the examples of a file. Raises ConfigError with file and line."""
    for where, values in read_json_lines(path, _ADAPTER):
        yield _example(where, values)


def _example(where: str, values: _Line) -> Example:
    match = _PREFIX.fullmatch(values["prefix"].strip())
    if match is None or match[1] not in _TOKENS:
        raise ConfigError(f"{where}: prefix: must begin with a task token of Florence-2, such as <OD> or <CAPTION>")
    row = FLORENCE_TASKS[_TOKENS[match[1]]]
    rest, text, region = match[2].strip(), None, None
    if row.keys.needs == "text":
        if not rest or MODEL_TOKEN.search(rest):
            raise ConfigError(f"{where}: prefix: {row.token} needs a text of plain words after it")
        text = rest
    elif row.keys.needs == "region":
        region = _region(where, row.token, rest)
    elif rest:
        raise ConfigError(f"{where}: prefix: {row.token} takes nothing after it")
    if unknown := _NO_LOCATION.search(values["suffix"]):
        raise ConfigError(f"{where}: suffix: {unknown[0]} is no location: these are <loc_0> to <loc_{BINS - 1}>")
    answer = parse(row.form, values["suffix"])
    example = Example(values["image"], row.name, answer, text, region)
    # `parse` leaves malformed parts out, which would teach the model another answer than the file says.
    if _content(suffix(example)) != _content(values["suffix"]):
        raise ConfigError(f"{where}: suffix: is no answer of {row.token}; read as `{suffix(example)[:80]}`")
    return example


def _region(where: str, token: str, text: str) -> Region:
    match = _REGION.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: prefix: {token} needs four location tokens after it")
    x0, y0, x1, y1 = ((int(bin) + 0.5) / BINS for bin in match.groups())
    if x0 > x1 or y0 > y1:
        raise ConfigError(f"{where}: prefix: the region's corners are swapped")
    return Region(x0, y0, x1, y1)


def _content(text: str) -> tuple[Counter[str], set[str]]:
    """Return the location tokens of an answer with their numbers, and its words, each once."""
    text = text.strip().removeprefix("<s>").removesuffix("</s>")
    words = {" ".join(part.split()) for part in MODEL_TOKEN.split(text)}
    return Counter(re.findall(r"<loc_\d+>", text)), words - {""}


def prefix(example: Example) -> str:
    """Return the task's token with the text or region of the example."""
    region = example.region
    tokens = "" if region is None else location_tokens(region.x0, region.y0, region.x1, region.y1)
    return FLORENCE_TASKS[example.task].token + (example.text or "") + tokens


def suffix(example: Example) -> str:
    """Return the answer of the example as the model writes it. Raises ValueError."""
    return answer_text(example.task, example.answer)


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write examples as JSON Lines; return their number. Raises OSError, and ValueError for an impossible answer."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            line = {"image": example.image, "prefix": prefix(example), "suffix": suffix(example)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count

"""Florence-2's own fifteen tasks, one row each, and the config keys of each. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, cast, get_args

from pydantic import BeforeValidator, Field, create_model, model_validator

from pipelines.florence2.content import content_of
from pipelines.florence2.noun_phrases import searched_things
from pipelines.florence2.tiles import Tiles, TilesField
from streamer.core.settings import RegionField, Settings
from streamer.types import Region, ResultKind, TaskSpec

BINS = 1000
"""Location tokens per axis; `<loc_i>` is the i-th thousandth of the width or height."""

MAX_TOKENS = 4096
"""Maximum answer length in tokens that a config may ask for."""

Form = Literal["text", "boxes", "regions", "phrases", "polygons", "boxes_or_polygons", "quads"]
"""Format of an answer. `regions` are boxes without labels, `phrases` boxes labelled with parts of a caption."""

Quality = Literal["fast", "official"]

_RESULTS: dict[str, ResultKind] = {
    **{kind: kind for kind in get_args(ResultKind)},
    "regions": "boxes",
    "phrases": "boxes",
}
"""Kind of result by format."""
MODEL_TOKEN = re.compile(r"</?\w+>")


def location_tokens(*coordinates: float) -> str:
    """Return the `<loc_i>` of coordinates, which are fractions of the width or height."""
    # 1e-9 keeps 0.57 in bin 570: as a float 0.57 * 1000 is just below.
    bins = (min(max(math.floor(value * BINS + 1e-9), 0), BINS - 1) for value in coordinates)
    return "".join(f"<loc_{index}>" for index in bins)


def _phrase(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("must not be empty")
    if "<and>" in text:
        listed = ", ".join(part.strip() for part in text.split("<and>"))
        raise ValueError(f"must be plain words: write a list instead of <and>: [{listed}]")
    if token := MODEL_TOKEN.search(text):
        raise ValueError(f"must be plain words, without model tokens such as {token[0]}")
    return text


MAX_TEXTS = 32
"""Maximum number of texts of one task. Each costs one answer per run."""


def _texts(value: Any) -> str | tuple[str, ...]:
    """Return a text or the texts of a list. Raises ValueError."""
    if isinstance(value, str):
        return _phrase(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise ValueError("must be a text or a list of texts")
    if not 1 <= len(value) <= MAX_TEXTS:
        raise ValueError(f"must be a list of 1 to {MAX_TEXTS} texts")
    texts = tuple(_phrase(text) for text in value)
    if repeated := next((text for index, text in enumerate(texts) if text in texts[:index]), None):
        raise ValueError(f"`{repeated}` is given twice")
    return texts


Look = Literal["region_to_description", "region_to_category"]
_LOOKS: dict[str, tuple[Look, ...]] = {
    "description": ("region_to_description",),
    "category": ("region_to_category",),
    "both": ("region_to_description", "region_to_category"),
}
"""Tasks that are asked about a region, by `agree`."""
EXPECTED_SHAPES = 2
"""Shapes per text that cost estimates assume for the second look."""


class Confirm(Settings):
    """The keys of the second look at what a task found."""

    agree: Literal["description", "category", "both"] = "description"
    """The model's words about a shape's region that must name the thing searched for: its description, which also says
    the colour, its category, or both."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Leave out shapes that the second look supports less, 0 to 1. Default: 0.1, for referring_segmentation 0.2."""

    @property
    def kinds(self) -> tuple[Look, ...]:
        """The tasks that are asked about each shape."""
        return _LOOKS[self.agree]


def _confirm(value: Any) -> Any:
    """Return the keys of the second look; None if there is none. Raises ValueError."""
    if isinstance(value, bool):
        return {} if value else None
    if value is not None and not isinstance(value, (Mapping, Confirm)):
        raise ValueError("must be true, false or a mapping of keys")
    return value


class Parameters(Settings):
    """Config keys of a task without text or region."""

    task: ClassVar[str]
    needs: ClassVar[str | None] = None

    quality: Quality = "fast"
    """fast: greedy decoding. official: the checkpoint's own beam search, slower."""
    max_tokens: int
    """An answer longer than this many tokens is an error."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, each of which is a prompt; empty if the task takes none."""
        return ()

    @property
    def prompt_text(self) -> str | None:
        return ", ".join(self.texts) or None

    @property
    def prompt_region(self) -> Region | None:
        return None

    @property
    def prompts(self) -> Mapping[str, float]:
        tiles: Tiles | None = getattr(self, "tiles", None)
        pictures = 1 if tiles is None else tiles.pictures
        return {self.task: max(1, len(self.texts)) * pictures}

    @property
    def labels(self) -> tuple[str, ...] | None:
        # The shapes of a list of texts are labelled by text, those of one text by whatever the model writes.
        return self.texts if len(self.texts) > 1 else None

    @model_validator(mode="before")
    @classmethod
    def _check_inputs(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in ("text", "region"):
                if key in data and key != cls.needs:
                    raise ValueError(f"task {cls.task} takes no `{key}`")
            if "confirm" in data and "confirm" not in cls.model_fields:
                raise ValueError(f"task {cls.task} takes no `confirm`: it is for tasks that search for a text")
            if cls.needs and data.get(cls.needs) is None:
                raise ValueError(f"task {cls.task} needs `{cls.needs}`")
        return data


class TextParameters(Parameters):
    """Config keys of a task with a text."""

    needs: ClassVar[str | None] = "text"

    text: Annotated[str | tuple[str, ...], BeforeValidator(_texts, json_schema_input_type=str | list[str])]
    """Text to search for, without model tokens. A list is searched one by one, and each shape has its text as label."""

    confirm: Annotated[Confirm | None, BeforeValidator(_confirm, json_schema_input_type=bool | Confirm | None)] = None
    """true, or a mapping of keys: ask the model about the region of each shape, and leave out those that it does not
    name by the text. Default: no second look."""

    @model_validator(mode="after")
    def _check_second_look(self) -> Self:
        if getattr(self, "confirm", None) is not None and getattr(self, "tiles", None) is not None:
            raise ValueError("give either `confirm` or `tiles`: the second look is at the whole picture, not at a tile")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def prompts(self) -> Mapping[str, float]:
        looks: tuple[str, ...] = () if self.confirm is None else self.confirm.kinds
        return {**super().prompts, **dict.fromkeys(looks, EXPECTED_SHAPES * len(self.texts))}

    @model_validator(mode="after")
    def _check_confirm(self) -> Self:
        if self.confirm is not None:
            for text in self.texts:
                if not any(thing.noun.isascii() for thing in searched_things(text)):
                    raise ValueError(f"`confirm` cannot check `{text}`: the text must name a thing in English")
        return self


class RegionParameters(Parameters):
    """Config keys of a task with a region."""

    needs: ClassVar[str | None] = "region"

    region: RegionField
    """Rectangle x0,y0,x1,y1, as fractions of the frame."""

    @property
    def prompt_region(self) -> Region:
        return self.region


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One row of the task table."""

    name: str
    token: str
    """Name of the task in Florence-2's own processor."""
    prompt: str
    """The model's prompt; `{input}` is the text or the region's location tokens."""
    form: Form
    keys: type[Parameters]
    max_tokens: int
    """Default `max_tokens`, far above the length of a good answer."""
    summary: str


CAPTIONS = ("caption", "detailed_caption", "more_detailed_caption")
"""Tasks whose answer is a description of the picture."""

_ROWS = (
    TaskRow("caption", "<CAPTION>", "What does the image describe?",
            "text", Parameters, 128, "one sentence"),
    TaskRow("detailed_caption", "<DETAILED_CAPTION>", "Describe in detail what is shown in the image.",
            "text", Parameters, 256, "a few sentences"),
    TaskRow("more_detailed_caption", "<MORE_DETAILED_CAPTION>", "Describe with a paragraph what is shown in the image.",
            "text", Parameters, 512, "a paragraph"),
    TaskRow("object_detection", "<OD>", "Locate the objects with category name in the image.",
            "boxes", Parameters, 1024, "boxes of common things"),
    TaskRow("dense_region_caption", "<DENSE_REGION_CAPTION>",
            "Locate the objects in the image, with their descriptions.",
            "boxes", Parameters, 1024, "boxes, each with a short description"),
    TaskRow("region_proposal", "<REGION_PROPOSAL>", "Locate the region proposals in the image.",
            "regions", Parameters, 1024, "boxes of anything, without labels"),
    TaskRow("phrase_grounding", "<CAPTION_TO_PHRASE_GROUNDING>", "Locate the phrases in the caption: {input}",
            "phrases", TextParameters, 1024, "boxes of what a caption mentions"),
    TaskRow("referring_segmentation", "<REFERRING_EXPRESSION_SEGMENTATION>", "Locate {input} in the image with mask",
            "polygons", TextParameters, 1024, "the outline of what the text refers to"),
    TaskRow("region_to_segmentation", "<REGION_TO_SEGMENTATION>", "What is the polygon mask of region {input}",
            "polygons", RegionParameters, 1024, "the outline of the thing in a region"),
    TaskRow("open_vocabulary_detection", "<OPEN_VOCABULARY_DETECTION>", "Locate {input} in the image.",
            "boxes_or_polygons", TextParameters, 1024, "boxes or outlines of what the text names"),
    TaskRow("region_to_category", "<REGION_TO_CATEGORY>", "What is the region {input}?",
            "text", RegionParameters, 128, "what kind of thing is in a region"),
    TaskRow("region_to_description", "<REGION_TO_DESCRIPTION>", "What does the region {input} describe?",
            "text", RegionParameters, 256, "a sentence on a region"),
    TaskRow("region_to_ocr", "<REGION_TO_OCR>", "What text is in the region {input}?",
            "text", RegionParameters, 512, "the text in a region"),
    TaskRow("ocr", "<OCR>", "What is the text in the image?",
            "text", Parameters, 1024, "all text in the picture"),
    TaskRow("ocr_with_region", "<OCR_WITH_REGION>", "What is the text in the image, with regions?",
            "quads", Parameters, 1024, "each piece of text with its four corners"),
)  # fmt: skip

FLORENCE_TASKS: dict[str, TaskRow] = {row.name: row for row in _ROWS}
"""All tasks by their name in configs and events."""


_TILED: tuple[Form, ...] = ("boxes", "regions", "boxes_or_polygons", "quads")
"""Formats of the answers that can be merged over tiles."""
_TILES = Field(
    default=None,
    description="Also run in overlapping tiles of the picture, `2x2` to `4x4`, and merge what they find: for small "
    "objects in large frames. Each tile costs a vision pass and an answer. Default: none.",
)
_MIN_SCORE = Field(default=None, ge=0, le=1, description="Leave out shapes that score less, 0 to 1. Default: none.")


def _parameters(row: TaskRow) -> type[Parameters]:
    """Return the settings class of a row, with the row's task name in errors and its default `max_tokens`."""
    max_tokens = Field(default=row.max_tokens, ge=1, le=MAX_TOKENS)
    fields: dict[str, Any] = {"max_tokens": (int, max_tokens)}
    # A text has one score, so there is nothing to leave out.
    if row.form != "text":
        fields["min_score"] = (float | None, _MIN_SCORE)
    if row.form in _TILED:
        fields["tiles"] = (TilesField | None, _TILES)
    name = "".join(word.capitalize() for word in row.name.split("_")) + "Parameters"
    model = create_model(name, __base__=row.keys, __module__=__name__, __doc__=row.summary, **fields)
    parameters = cast("type[Parameters]", model)
    parameters.task = row.name
    return parameters


SPECS: dict[str, TaskSpec] = {
    row.name: TaskSpec(
        task=row.name,
        summary=row.summary,
        takes_text=row.keys.needs == "text",
        takes_region=row.keys.needs == "region",
        result=_RESULTS[row.form],
        parameters=_parameters(row),
        content=content_of if row.name in CAPTIONS else None,
        names_region=row.name == "region_to_category",
    )
    for row in _ROWS
}
"""The task table as streamer sees it."""

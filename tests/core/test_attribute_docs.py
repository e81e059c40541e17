"""Descriptions of fields in JSON Schemas, from the docstrings below them."""

from __future__ import annotations

from pydantic import Field, create_model

from streamer.core.attribute_docs import Documented


class Lamp(Documented):
    color: str = "red"
    """Color of the light,
    as a name."""
    watts: int = Field(5, alias="power")
    """Power in watts."""
    bulb: str = Field("", description="Described here.")
    """Not described here."""
    bare: int = 0


class Torch(Lamp):
    color: str = "white"
    watts: int = Field(1, alias="power")
    """Power of a torch in watts."""
    near: Lamp | None = None
    """The next lamp."""


def described(model: type[Documented]) -> dict[str, str | None]:
    properties = model.model_json_schema()["properties"]
    return {name: field.get("description") for name, field in properties.items()}


def test_docstrings_describe_the_fields_of_a_model() -> None:
    assert described(Lamp) == {
        "color": "Color of the light,\nas a name.",
        "power": "Power in watts.",
        "bulb": "Described here.",
        "bare": None,
    }


def test_overridden_fields_keep_the_description_or_get_their_own() -> None:
    found = described(Torch)
    assert found["color"] == "Color of the light,\nas a name."
    assert found["power"] == "Power of a torch in watts."
    inner = Torch.model_json_schema()["$defs"]["Lamp"]["properties"]
    assert inner["power"]["description"] == "Power in watts."


def test_model_made_at_run_time_has_the_descriptions_of_its_source() -> None:
    made = create_model("Torch", __base__=Documented, color=(str, ""), near=(str, ""))
    assert described(made) == {"color": None, "near": None}, "not those of the class with the same name"
    copied = create_model("Copy", __base__=Documented, color=(str, ""), near=(str, ""))
    copied.described_in = Torch
    assert described(copied) == {"color": "Color of the light,\nas a name.", "near": "The next lamp."}

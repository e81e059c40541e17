"""Descriptions in JSON Schemas from docstrings of attributes, read from the source when a schema is asked for.

The option `use_attribute_docstrings` of pydantic reads the source at each import, which is a quarter of the time to
import all settings.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue


class Documented(BaseModel):
    """Base of models whose fields are described in docstrings below them."""

    described_in: ClassVar[type[Documented] | None] = None
    """The model from which this one, made at run time, has copies of fields."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _descriptions(cls).items():
            field = cls.model_fields.get(name)
            if field is not None and (found := properties.get(field.alias or name)) is not None:
                found.setdefault("description", text)
        return schema


def _descriptions(model: type[Documented]) -> Mapping[str, str]:
    """Return the docstrings of the attributes of a model and its bases by their names."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if one is Documented or not issubclass(one, Documented):
            continue
        if (source := one.__dict__.get("described_in")) is not None:
            found |= _descriptions(source)
        if getattr(sys.modules[one.__module__], one.__name__, None) is one:  # else it was made at run time
            found |= _in_module(one.__module__).get(one.__name__, {})
    return found


@cache
def _in_module(name: str) -> Mapping[str, Mapping[str, str]]:
    """Return the docstrings of attributes in a module by the names of their classes."""
    body = ast.parse(inspect.getsource(sys.modules[name])).body
    return {one.name: dict(_in_class(one.body)) for one in body if isinstance(one, ast.ClassDef)}


def _in_class(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                yield name, inspect.cleandoc(words)

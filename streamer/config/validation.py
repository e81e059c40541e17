"""Translates pydantic's errors in a config into plain messages with the nearest valid key or value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from streamer.config.yaml_file import Where
from streamer.core.settings import in_words

Problem = tuple[Where, str]
Schema = dict[str, Any]

_PROMPT_KEYS = ("text", "region", "min_score", "confirm")
_NAME_PATTERN = "a-z0-9"
MAX_KNOWN = 20
"""Names that a message lists when none is near; an agent can have thousands of streams or open incidents."""
_LISTS = ("list_type", "tuple_type")
_MAX_PLACE = 4
"""Keys of the place that a message about deep nesting shows."""


def problems_of(error: ValidationError, raw: Any, schema: Schema) -> list[Problem]:
    """Return place and message of each error in `raw`. `schema`: the JSON Schema that `raw` should follow."""
    found = [(details["type"], *_problem(details, raw, schema)) for details in error.errors(include_url=False)]
    problems: list[Problem] = []
    for kind, where, message in found:
        # A place for a text or a list has an error for each. A list with an invalid item is also reported as too short.
        holds_problem = any(other[: len(where)] == where and len(other) > len(where) for _, other, _ in found)
        if (kind in ("string_type", "too_short") and holds_problem) or (kind in _LISTS and where in dict(problems)):
            continue
        problems.append((where, message))
    return problems


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ` (did you mean …?)`, else ` (known: …)` with the first `MAX_KNOWN`, else an empty text."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f" (did you mean `{close[0]}`?)"
    names = sorted(known)
    more = f" and {len(names) - MAX_KNOWN} more" if len(names) > MAX_KNOWN else ""
    return f" (known: {', '.join(names[:MAX_KNOWN])}{more})" if known else ""


def _problem(details: ErrorDetails, raw: Any, schema: Schema) -> Problem:
    location, context = details["loc"], details.get("ctx", {})
    where, trail = _follow(location, raw, schema)
    match details["type"]:
        case "missing":
            return where, f"`{location[-1]}` is missing{_task_message(trail[-1], ': {} needs it')}"
        case "extra_forbidden":
            return where, _unknown_key(str(location[-1]), trail[-2], _keys_at(location[:-1], schema))
        case "union_tag_invalid":
            return _unknown_kind(where, trail[-1], context)
        case "union_tag_not_found":
            return where, f"`{str(context['discriminator']).strip(chr(39))}` is missing"
        case "string_pattern_mismatch" if _NAME_PATTERN in str(context.get("pattern")):
            return where, "must be a name: lower-case letters, digits, `-` and `_`, at most 63, a letter or digit first"
        case "string_pattern_mismatch" | "string_type" if example := _example(location, schema):
            return where, f"must be a text such as `{example}`"
        case "too_short" | "string_too_short":
            return where, "must not be empty"
        case "model_type" | "model_attributes_type" | "dict_type":
            return where, f"must be a mapping of keys, such as `{_example_key(location, schema)}: …`"
        case kind if kind in _LISTS:
            return where, "must be a list: [first, second], or lines that begin with `- `"
        case "recursion_depth_exceeded" | "recursion_loop":
            return where[:_MAX_PLACE], "nested too deeply"
        case "path_type":
            return where, "must be the path of a file or folder"
    return where, in_words(details)


def _follow(location: Sequence[str | int], raw: Any, schema: Schema) -> tuple[Where, list[Any]]:
    """Return the part of pydantic's location that exists in the data, without union members, and the data along it."""
    where: list[str | int] = []
    trail = [raw]
    for part in location:
        here = trail[-1]
        listed = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if listed or (isinstance(here, Mapping) and part in here):
            where.append(part)
            trail.append(here[part])
    # pydantic appends "[key]" to the place of a wrong key.
    is_part = bool(where) and location[-1] not in (where[-1], "[key]")
    if isinstance(trail[-1], str) and is_part and _keys_at(location[:-1], schema):
        where.append(location[-1])  # a part of a text: `synthetic?fps=0`
        trail.append(None)
    return tuple(where), trail


def _unknown_key(key: str, holder: Any, known: list[str]) -> str:
    if key in _PROMPT_KEYS and (words := _task_message(holder, "{} takes no ")):
        return words + key
    return f"unknown key{nearest(key, known)}"


def _unknown_kind(where: Where, holder: Any, context: Mapping[str, Any]) -> Problem:
    key = str(context["discriminator"]).strip("'")
    known = re.findall(r"'([^']*)'", str(context["expected_tags"]))
    if isinstance(holder, Mapping) and key in holder:
        where = (*where, key)
    return where, f"unknown {key} `{context['tag']}`{nearest(str(context['tag']), known)}"


def _task_message(entry: Any, words: str) -> str:
    task = entry.get("task") if isinstance(entry, Mapping) else None
    return words.format(task) if isinstance(task, str) else ""


def _keys_at(location: Sequence[str | int], root: Schema) -> list[str]:
    """Return the keys that are valid at a pydantic location."""
    return [key for member in _members_at(location, root) for key in member.get("properties", ())]


def _example_key(location: Sequence[str | int], root: Schema) -> str:
    """Return a key for a place that has none: one that must be there, else the first; `NAME` where names are keys."""
    needed = [key for member in _members_at(location, root) for key in member.get("required", ())]
    keys = _keys_at(location, root)
    return "kind" if "kind" in keys else next(iter((*needed, *keys)), "NAME")


def _example(location: Sequence[str | int], root: Schema) -> str | None:
    """Return an example of the value at a pydantic location."""
    members = _members_at(location, root)
    return next((str(example) for member in members for example in member.get("examples", ())), None)


def _members_at(location: Sequence[str | int], root: Schema) -> list[Schema]:
    found = [root]
    for part in location:
        steps = [step for schema in found for step in _steps(_members(schema, root), part)]
        found = steps or found  # the name of a union's member is no step
    return [member for schema in found for member in _members(schema, root)]


def _members(schema: Schema, root: Schema) -> list[Schema]:
    """Return the schema itself, with its reference followed, and the members of its unions."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    inner = [member for key in ("anyOf", "oneOf", "allOf") for member in schema.get(key, ())]
    return [schema, *(found for member in inner for found in _members(member, root))]


def _steps(members: list[Schema], part: str | int) -> list[Schema]:
    """Return the schemas one step deeper: a property, list items, the union member of that tag, or mapping values."""
    for member in members:
        if part in (properties := member.get("properties", {})):
            return [properties[part]]
        if isinstance(part, int) and "items" in member:
            return [member["items"]]
        if any(value.get("const") == part for value in properties.values()):
            return [member]
    return [value for member in members for value in member.get("patternProperties", {}).values()]

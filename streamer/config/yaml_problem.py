"""Says what to write instead of YAML that cannot be parsed, in place of the parser's own words."""

from __future__ import annotations

import re

from ruamel.yaml.error import MarkedYAMLError

_UNQUOTED = re.compile(r"[:\[,-]\s*[*@%`].|^(?!%YAML |%TAG )[*@%`].")
"""A value that begins with a character that YAML reserves, such as the cron line `*/15 * * * *`."""
_UNKNOWN_ALIAS = re.compile(r"found undefined alias '[\w-]+'")
_STRUCTURE = "expected <block end>, but found "
_INDENTATION = "this line is not indented like the keys or list items above it"
_BY_PROBLEM = (
    (r"found character '\\t'", "indent with spaces, not with a tab"),
    (r"could not find expected ':'", "a key needs a colon and a space after it"),
    (r"mapping values are not allowed here", "check the indentation, and the space after the colon of the line above"),
    (r"mapping keys are not allowed here", "a text that begins with ? needs quotes"),
    (r"expected alphabetic or numeric character", "a text that begins with * or & needs quotes"),
    (r"expected ',' or '}', but got", "a comma is missing, or the } of a { above"),
    (r"expected ',' or '\]', but got", "a comma is missing, or the ] of a [ above"),
    (r"found unexpected end of stream", "the closing quote of this text is missing"),
    (_STRUCTURE + "'<scalar>'", "a text that begins with {, [ or a quote needs quotes around all of it"),
    (_STRUCTURE + "','", "a comma outside of { } and [ ]: write each key on its own line, or put the text in quotes"),
    (_STRUCTURE + "'[]}]'", "a } or ] without the { or [ that it closes"),
    (r"expected '<document start>', but found \('[]}]'", "a } or ] without the { or [ that it closes"),
    (_STRUCTURE + "|expected '<document start>'", _INDENTATION),
)
"""Words of the parser, and what is said instead."""
_AT_START = ("could not find expected ':'", "found unexpected end of stream")
"""Problems that the parser finds behind the line that causes them."""


def yaml_problem(error: MarkedYAMLError, text: str) -> tuple[int | None, str]:
    """Return the line of an error in `text`, counted from 1, and what is wrong there, without words of the text."""
    problem = str(error.problem or error.context)
    if problem.startswith("but "):
        problem = f"{error.context}, {problem}"
    mark = error.problem_mark or error.context_mark
    if problem in _AT_START and error.context_mark:
        mark = error.context_mark
    if mark and _UNQUOTED.search(_line(text, mark.line)) and not _UNKNOWN_ALIAS.fullmatch(problem):
        problem = 'a text that begins with *, @, % or ` needs quotes, as in "*/15 * * * *"'
    elif mark and problem.startswith("mapping values") and ": " in _line(text, mark.line)[: mark.column]:
        problem = "a text with a colon and a space needs quotes"
    else:
        problem = next((said for words, said in _BY_PROBLEM if re.match(words, problem)), problem)
    return mark.line + 1 if mark else None, _without_names(problem)


def _line(text: str, number: int) -> str:
    """Return a line of the text, counted from 0; an empty one behind the end."""
    return next(iter(text.splitlines()[number : number + 1]), "")


def _without_names(problem: str) -> str:
    """Return the parser's words without the name of an alias or anchor: it may be a password with `*` or `&`."""
    for kind, sign in (("alias", "*"), ("anchor", "&")):
        if f"{kind} '" in problem:
            return f"{problem.partition(' ' + chr(39))[0]}: put a text that begins with {sign} in quotes"
    return problem

"""Reads a YAML 1.2 file into plain data and stores the line of each key.

The only substitution is `${NAME}` in a text value. Merge keys (`<<`) are followed, and top-level keys that begin with
`x-` are ignored: they hold parts that aliases use. Duplicate keys, tags, alias bombs and files over 1 MB are rejected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from streamer.config.yaml_problem import yaml_problem
from streamer.core.errors import ConfigError
from streamer.core.redact import remember

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
"""Maximum number of values in a file; an alias counts each time it is used."""
MAX_INTEGER = 2**63 - 1
"""Largest whole number, up or down: every key that takes one converts it to 64 bits or less."""

Where = tuple[str | int, ...]
"""Place of a value: keys and list indices from the top."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CRED|AUTH|SIGN", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
EXTENSION = "x-"
"""Start of the top-level keys that are ignored, as in other tools' files."""
_TOO_MANY = f"more than {MAX_VALUES} values, aliases counted each time they are used"
_KINDS = {"bool": "true or false", "int": "a whole number of at most 19 digits", "float": "a number", "null": "null"}
_TEXT_TAGS = {"str", "timestamp"}  # no key of a config is a date, so a date stays text


class _TooManyValues(Exception):
    """Holds the line of the first value beyond MAX_VALUES, counted from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Composer(Composer):
    """Stops at the first value beyond MAX_VALUES: half a million values in one file take a minute to read."""

    _values = 1  # the document

    def compose_node(self, parent: Any, index: Any) -> Any:
        if index is not None:  # neither the document nor a key
            self._values += 1
            if self._values > MAX_VALUES:
                raise _TooManyValues(self.parser.peek_event().start_mark.line + 1)
        return super().compose_node(parent, index)


class YamlFile:
    """The data of one file, and the lines of its keys."""

    def __init__(self, path: Path, environ: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._environ = os.environ if environ is None else environ
        self._lines: dict[Where, int] = {(): 1}
        self._counts: dict[int, int | None] = {}
        self._yaml = YAML(typ="safe", pure=True)
        self._yaml.Composer = _Composer
        root = self._compose(self._read())
        if root is None:
            raise ConfigError(f"{path}: the file is empty")
        if self._count(root) > MAX_VALUES:
            raise self.error(root, _TOO_MANY)
        self.data: Any = self._build(root, ())

    def line(self, path: Where) -> int:
        """Return the line of the key or list item at `path`, or of the nearest one above it."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def error(self, node: Node, message: str) -> ConfigError:
        return ConfigError(f"{self.path}:{node.start_mark.line + 1}: {message}")

    def _read(self) -> str:
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{self.path}: {(error.strerror or 'cannot be read').lower()}") from None
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{self.path}: larger than {MAX_BYTES} bytes")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{self.path}:{line}: not UTF-8 text") from None

    def _compose(self, text: str) -> Node | None:
        try:
            node: Node | None = self._yaml.compose(text)
        except MarkedYAMLError as error:
            line, problem = yaml_problem(error, text)
            where = f":{line}" if line else ""
            raise ConfigError(f"{self.path}{where}: not valid YAML: {problem}") from None
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            problem = f"the control character U+{ord(text[error.position]):04X} is not allowed"
            raise ConfigError(f"{self.path}:{line}: not valid YAML: {problem}") from None
        except YAMLError as error:
            raise ConfigError(f"{self.path}: not valid YAML: {str(error).splitlines()[0]}") from None
        except RecursionError:
            raise ConfigError(f"{self.path}: nested too deeply") from None
        except _TooManyValues as stopped:
            raise ConfigError(f"{self.path}:{stopped.line}: {_TOO_MANY}") from None
        except (ValueError, OverflowError):  # ruamel calls chr() with any number
            raise ConfigError(
                f"{self.path}: not valid YAML: an escape such as \\U00110000 is not a character"
            ) from None
        return node

    def _count(self, node: Node) -> int:
        """Return the number of values under `node` with all aliases expanded, without expanding any."""
        if isinstance(node, ScalarNode):
            return 1
        key = id(node)
        if key not in self._counts:
            self._counts[key] = None
            children = [value for _, value in node.value] if isinstance(node, MappingNode) else node.value
            self._counts[key] = 1 + sum(self._count(child) for child in children)
        count = self._counts[key]
        if count is None:
            raise self.error(node, "a value that contains itself")
        return count

    def _build(self, node: Node, path: Where, key: Node | None = None) -> Any:
        self._lines.setdefault(path, (key or node).start_mark.line + 1)
        kind = str(node.tag).removeprefix(_TAG)
        if isinstance(node, MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self._build(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            if kind in _TEXT_TAGS:
                return self._substitute(node)
            if kind in {"null", "bool", "int", "float"}:
                return self._plain_value(node, kind)
        # Not the tag itself: it may be a password that begins with `!`.
        raise self.error(node, "a value that begins with ! is a tag, which is not supported: put a text in quotes")

    def _plain_value(self, node: ScalarNode, kind: str) -> bool | int | float | None:
        try:
            value: bool | int | float | None = self._yaml.constructor.construct_object(node)
        except (ValueError, KeyError, IndexError):  # a tag such as !!int on other text, or thousands of digits
            raise self.error(node, f"this value is not {_KINDS[kind]}") from None
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise self.error(node, "this number is too large")
        return value

    def _mapping(self, node: MappingNode, path: Where) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[Node] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise self.error(key, "a key must be plain text")
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, SequenceNode) else [value]
                continue
            name = self._characters(key, key.value)
            if _is_missing_space(key, value):
                raise self.error(key, f"{dotted((*path, name.partition(':')[0]))}: write a space after the colon")
            if name in data:
                raise self.error(key, f"{dotted((*path, name))}: written twice")
            if path or not name.startswith(EXTENSION):
                data[name] = self._build(value, (*path, name), key)
        for source in merged:
            if not isinstance(source, MappingNode):
                raise self.error(source, "`<<` takes a mapping, or a list of mappings")
            data = self._mapping(source, path) | data  # keys that are written here, or merged first, win
        return data

    def _substitute(self, node: ScalarNode) -> str:
        def value_of(match: re.Match[str]) -> str:
            name = match[1]
            if not _VARIABLE_NAME.fullmatch(name):
                raise self.error(node, f"${{{name}}} is not the name of an environment variable")
            if name not in self._environ:
                raise self.error(node, f"the environment variable {name} is not set")
            if _SECRET_NAME.search(name):
                remember(self._environ[name])
            return self._environ[name]

        text = str(node.value)
        if "${" in _VARIABLE.sub("", text):  # not the text itself: it may hold a password
            raise self.error(node, "`${` without `}`: write an environment variable as ${NAME}")
        return self._characters(node, _VARIABLE.sub(value_of, text))

    def _characters(self, node: ScalarNode, text: str) -> str:
        """Return `text` with each surrogate pair joined: JSON writes an emoji as two escapes. Raises ConfigError."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self.error(
                node, "this text holds half a character (a lone \\ud800 to \\udfff, or bytes that are not UTF-8)"
            ) from None


def _is_missing_space(key: ScalarNode, value: Node) -> bool:
    """Return whether a key such as that of `{every:1s}` holds what should be its value."""
    return key.style is None and ":" in key.value and isinstance(value, ScalarNode) and value.value == ""


def dotted(path: Where) -> str:
    """Return a path as text, such as `streams.gate.tasks[0].text`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text

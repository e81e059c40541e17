"""The help texts of all commands have one style."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from streamer.cli.main import app

MAX_SUMMARY = 64
"""Characters of a summary that a list of commands shows in a terminal of 80 columns."""


def _commands(command: Any, *names: str) -> Iterator[Any]:
    """Yield each command below `command`, with its names."""
    yield pytest.param(command, names, id=" ".join(("streamer", *names)))
    for name, one in getattr(command, "commands", {}).items():
        yield from _commands(one, *names, name)


@pytest.mark.parametrize(("command", "names"), [*_commands(get_command(app))])
def test_help_has_a_short_summary_and_names_values(command: Any, names: tuple[str, ...]) -> None:
    summary = re.split(r"\.\s", command.help)[0]
    assert not names or len(summary) <= MAX_SUMMARY, summary
    for one in command.params:
        assert re.search(r"\.( \[default: .+\])?$", one.help), f"{one.name}: {one.help}"
    shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200"}).stdout
    assert not re.search(r"--\S+ +<(int|float|str|list|path)\b", shown), "an option shows the type of its value"

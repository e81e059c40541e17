"""The steps of contributing.md work; every path, name and socket in the documents exists."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.support.agents import RunningAgent, until

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "docs" / "contributing.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = ("README.md", "docs/architecture.md", "docs/contributing.md", "docs/usage.md", "docs/operating.md")
FOLDERS = ("streamer/", "pipelines/", "tests/", "docs/", "configs/", "systemd/", "benchmarks/")
PLACEHOLDERS = ("KIND", "NAME", "udp.py")
START_S = 90.0


def section(title: str) -> str:
    """Return the text under one heading of contributing.md."""
    return CONTRIBUTING.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def indented_blocks(text: str, language: str) -> list[str]:
    return [dedent(block) for block in re.findall(rf"^ +```{language}\n(.*?)^ +```", text, re.MULTILINE | re.DOTALL)]


SOURCE = """
from typing import Literal
from streamer.core.errors import SourceEnded
from streamer.core.settings import Settings
from streamer.capture.interfaces import Source
from streamer.types import Pace


class Still(Settings):
    kind: Literal["still"] = "still"
    shade: int = 0

    @property
    def pace(self) -> Pace:
        return "live"

    def open(self, read_limit: float = 15.0) -> Source:
        raise SourceEnded("nothing to show")
"""
OUTPUT = """
from typing import Literal
from streamer.video.outputs.base import H264Settings


class Tape(H264Settings):
    kind: Literal["tape"] = "tape"
    reel: str
"""
COMMAND = """
def hello() -> None:
    print("hello")
"""
TASK_ROW = 'TaskRow("mood", "<MOOD>", "What is the mood?", "text", Parameters, 128, "one word"),'


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages to which the steps of contributing.md were applied, with one part of each kind."""
    copy = tmp_path_factory.mktemp("tree")
    for package in ("streamer", "pipelines"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    sink, import_sink = indented_blocks(section("Add a sink"), "python")
    (copy / "streamer/events/sinks/udp.py").write_text(sink)
    (copy / "streamer/capture/sources/still.py").write_text(SOURCE)
    (copy / "streamer/video/outputs/tape.py").write_text(OUTPUT)
    insert(copy / "streamer/events/sinks/__init__.py", "SinkField = Annotated[", import_sink, "Udp | ")
    still = "from streamer.capture.sources.still import Still\n"
    insert(copy / "streamer/capture/sources/__init__.py", "Kinds = ", still, "Still | ")
    tape = "from streamer.video.outputs.tape import Tape\n"
    insert(copy / "streamer/video/outputs/__init__.py", "OutputField = Annotated[", tape, "Tape | ")
    insert(copy / "pipelines/florence2/tasks.py", "_ROWS = (", "", TASK_ROW)
    (copy / "streamer/cli/hello.py").write_text(COMMAND)
    insert(copy / "streamer/cli/main.py", "for command in (", "from streamer.cli.hello import hello\n", "hello, ")
    return copy


def insert(path: Path, anchor: str, before: str, after: str) -> None:
    """Put text before and after `anchor`, which starts a line once in the file."""
    text = path.read_text()
    assert text.count(f"\n{anchor}") == 1
    path.write_text(text.replace(f"\n{anchor}", f"\n{before}{anchor}{after}"))


def importing_from(tree: Path) -> dict[str, str]:
    """Environment in which Python finds `streamer` in `tree`, before the working directory and the installed one."""
    return {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


def test_added_sink_delivers_events(tree: Path, tmp_path: Path) -> None:
    (sinks,) = indented_blocks(section("Add a sink"), "yaml")
    config = tmp_path / "udp.yaml"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.1)
        config.write_text(
            "streams: {toy: {source: 'synthetic?pace=file&seconds=2s', tasks: [{task: caption}]}}\n"
            + sinks.replace("5005", str(receiver.getsockname()[1]))
        )

        def caption_event() -> Any:
            with suppress(TimeoutError):
                event = json.loads(receiver.recv(1 << 16))
                return event if event["subject"] == "caption" else None
            assert "TypeError" not in agent.log(), agent.log()
            assert agent.process.poll() is None, agent.log()

        with RunningAgent(tmp_path / "agent", ["run", str(config)], environment=importing_from(tree)) as agent:
            assert until(caption_event, START_S, "a caption as a datagram")["source"] == "/agents/udp/streams/toy"


def command(tree: Path, *arguments: str) -> str:
    """Run a `streamer` command of the tree and return its output."""
    environment = {**os.environ, **importing_from(tree)}
    arguments = (sys.executable, "-m", "streamer.cli", *arguments)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout


def test_added_parts_are_in_the_schema(tree: Path) -> None:
    definitions = json.loads(command(tree, "schema", "config"))["$defs"]
    assert set(definitions["Udp"]["properties"]) == {"kind", "name", "host", "port"}
    assert set(definitions["Still"]["properties"]) == {"kind", "shade"}
    assert set(definitions["Tape"]["properties"]) == {"kind", "stream", "sync", "name", "encoder", "reel"}
    assert "max_tokens" in definitions["mood"]["properties"]


def test_added_task_and_command_are_listed(tree: Path) -> None:
    assert "mood" in command(tree, "tasks")
    assert "hello" in command(tree, "--help")
    assert command(tree, "hello") == "hello\n"


def test_every_kind_of_part_has_its_steps() -> None:
    for title in ("Add a source", "Add a sink", "Add an output of annotated video", "Add a task", "Add a command"):
        assert re.search(r"^1\. .*^2\. ", section(title), re.MULTILINE | re.DOTALL), title


@pytest.mark.parametrize("document", NAMED)
def test_named_paths_exist(document: str) -> None:
    names = re.findall(r"`([\w./-]+)`", (ROOT / document).read_text())
    paths = {name for name in names if name.startswith(FOLDERS) and not any(word in name for word in PLACEHOLDERS)}
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("text", [ARCHITECTURE, CONTRIBUTING], ids=["architecture", "contributing"])
def test_named_code_exists(text: str) -> None:
    """Classes, registries and functions: `CamelCase`, `CONSTANT`, `_PRIVATE`, `snake_case`, `Class.method`."""
    known = defined_names()
    names = set(re.findall(r"`([A-Z]\w+[a-z]\w*(?:\.\w+)?|_?[A-Z]{3,}(?:_[A-Z]+)*|_\w+|\w+_\w+)`(?! \()", text))
    assert not [name for name in names if not set(name.split(".")) <= known]


def defined_names() -> set[str]:
    """Every class, function, variable and string of one word in `streamer` and `pipelines`."""
    found = {"KIND", "NAME", "OSError"}
    for package in ("streamer", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        found.add(name)
                    case ast.Name(id=name, ctx=ast.Store()):
                        found.add(name)
                    case ast.Constant(value=str(word)):
                        found.add(word)
    return found


def test_named_sockets_exist() -> None:
    """The fixed part of each socket's name stands in the code that binds it."""
    code = "".join(path.read_text() for path in (ROOT / "streamer").rglob("*.py"))
    sockets = re.findall(r"^\| `([a-z]+)(?:-<\w+>)?\.sock(\.replay)?`", ARCHITECTURE, re.MULTILINE)
    assert len(sockets) >= 9
    for name, _ in sockets:
        assert re.search(rf"\b{name}(-{{[\w.]+}})?\.sock", code), name
    assert set(re.findall(r"(\w+)(?:-[A-Z]+)?\.sock", ARCHITECTURE)) == {name for name, _ in sockets}


def test_architecture_names_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    (block,) = re.findall(r"## Layers\n.*?```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert block.splitlines() == layers


def test_newcomer_documents_stay_short() -> None:
    for document in ("README.md", "docs/architecture.md"):
        assert len((ROOT / document).read_text().splitlines()) <= 200

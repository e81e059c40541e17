"""Rules of the source tree: layers, sizes, imports, and calls that the code never makes."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("streamer", "pipelines") for path in (ROOT / package).rglob("*.py"))
DOCUMENTED = [*SOURCES, *sorted(path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))]
HEAVY = ("torch", "transformers", "cv2", "av", "zmq", "apsw", "numpy")
"""Modules that take long to import. numpy starts a thread, which SIGTERM would end before `streamer run` handles it."""

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "recv_pyobj", "send_pyobj", "popen"}
FORBIDDEN_ARGUMENTS = {("shell", True), ("trust_remote_code", True), ("weights_only", False)}

MAX_CLASS_LINES = 200
FRAGMENT_STARTS = {
    "What", "How", "Of", "Where", "Which", "Whether", "When", "By", "Who", "Whose", "So", "That", "In",
}  # fmt: skip
"""First words of a docstring that begin a fragment instead of a sentence."""


def test_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_layers_have_at_most_12_rows() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert len(layers) <= 12


def test_streamer_has_at_most_16_entries() -> None:
    assert len([path for path in (ROOT / "streamer").iterdir() if path.name != "__pycache__"]) <= 16


def test_every_package_says_what_it_contains() -> None:
    packages = [path for path in SOURCES if path.name == "__init__.py"]
    assert not [path for path in packages if not ast.get_docstring(ast.parse(path.read_text()))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_or_unpacks_foreign_code(path: Path) -> None:
    assert not list(forbidden(ast.parse(path.read_text())))


def forbidden(tree: ast.AST) -> Iterator[str]:
    """Yield the names in a module that can run or unpack code from outside."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [name.name for name in names if name.name.partition(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module)):
                found = [module] if module.partition(".")[0] in FORBIDDEN_MODULES else []
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=keywords):
                # model.eval() switches a torch module to inference
                found = [name] if name in FORBIDDEN_CALLS and not _is_torch_eval(node) else []
                found += [
                    str(word.arg)
                    for word in keywords
                    if word.arg == "preexec_fn"
                    or (isinstance(word.value, ast.Constant) and (word.arg, word.value.value) in FORBIDDEN_ARGUMENTS)
                ]
            case _:
                found = []
        yield from found


def _is_torch_eval(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "eval" and not call.args and not call.keywords


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "eval('1')",
        "socket.recv_pyobj()",
        "subprocess.run('ls', shell=True)",
        "Popen(['ls'], preexec_fn=print)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "torch.load('x', weights_only=False)",
    ],
)
def test_forbidden_finds_each_pattern(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_classes_stay_small(path: Path) -> None:
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in classes}
    assert not {name: count for name, count in lines.items() if count > MAX_CLASS_LINES}


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_sentences(path: Path) -> None:
    """A docstring starts with a verb or a noun phrase, also the one below a constant or an attribute."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Expr)]
    texts = [node.value.value for node in nodes if isinstance(node.value, ast.Constant)]
    starts = [text.split(maxsplit=1)[0].rstrip(",:") for text in texts if isinstance(text, str) and text.strip()]
    assert not FRAGMENT_STARTS.intersection(starts)


@pytest.mark.parametrize("arguments", [["--help"], ["watch", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert not loaded_by(f"sys.argv[1:] = {arguments!r}; from streamer.cli.main import main as run")


def test_reading_a_config_imports_no_torch() -> None:
    """Only the process that opens the engine imports torch, so that the others need less memory."""
    found = loaded_by("from streamer.config.model import json_schema as run")
    assert not {"torch", "transformers", "av"} & found


def loaded_by(code: str) -> set[str]:
    """Return the heavy modules that a new interpreter has imported after `code` defined `run` and `run()` returned."""
    program = (
        f"import sys, contextlib; {code}\nwith contextlib.suppress(SystemExit): run()\nprint('loaded', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded")[2].split()) & set(HEAVY)

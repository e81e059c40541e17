"""Who may import whom, and what the code never does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("streamer", "pipelines") for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "transformers", "cv2", "av", "zmq", "apsw")

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "recv_pyobj", "send_pyobj", "popen"}
FORBIDDEN_ARGUMENTS = {("shell", True), ("trust_remote_code", True), ("weights_only", False)}


def test_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_or_unpacks_foreign_code(path: Path) -> None:
    assert not list(forbidden(ast.parse(path.read_text())))


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What in a module could run code that came from outside."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [name.name for name in names if name.name.partition(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module)):
                found = [module] if module.partition(".")[0] in FORBIDDEN_MODULES else []
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=keywords):
                # model.eval() is torch's switch to inference
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
def test_the_search_finds_what_it_should(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("arguments", [["--help"], ["watch", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert not loaded_by(f"sys.argv[1:] = {arguments!r}; from streamer.cli.main import main as run")


def test_the_program_needs_no_torch_to_read_a_config() -> None:
    """Only the process that opens the engine imports torch; the others stay small."""
    found = loaded_by("from streamer.config.model import json_schema as run")
    assert not {"torch", "transformers", "av"} & found


def loaded_by(code: str) -> set[str]:
    """Which heavy modules are imported once `code` has defined `run` and it has run, in a fresh interpreter."""
    program = (
        f"import sys, contextlib; {code}\nwith contextlib.suppress(SystemExit): run()\nprint('loaded', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded")[2].split()) & set(HEAVY)

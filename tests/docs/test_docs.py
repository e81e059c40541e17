"""The documents are true: code blocks run, tables and figures match, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import zmq

import streamer
from streamer.cli.demo_score import Row, Score
from streamer.config import model
from streamer.events.schema import encode
from tests.support.sample_events import event

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHAPE_TASKS = ("object_detection", "referring_segmentation", "region_to_segmentation")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def requirements() -> set[str]:
    """Return the names of all direct dependencies, including those of the development tools."""
    lines = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    return {re.split(r"[<>=!~ ]", line)[0] for line in lines}


def test_readme_config_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_USER", "viewer")
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cretword")
    (block,) = blocks("yaml")
    (tmp_path / "home.yaml").write_text(block)
    config = model.load(tmp_path / "home.yaml")
    assert set(config.streams) == {"gate", "desk"}


def test_readme_subscriber_runs(tmp_path: Path) -> None:
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 5
    result = event(stream="gate")
    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)  # a PUB socket that also receives subscriptions
    publisher.set(zmq.LINGER, 0)
    publisher.bind(f"ipc://{tmp_path}/events.sock")
    with subprocess.Popen([sys.executable, "-u", "-c", block], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            assert publisher.poll(30_000)
            publisher.send_multipart([f"gate/{result.subject}/".encode(), encode(result)])
            assert process.stdout is not None
            assert process.stdout.readline().decode().startswith(f"{result.time} {result.subject} [")
        finally:
            process.kill()
            publisher.close()
            context.term()


def test_readme_demo_has_the_format_of_the_demo() -> None:
    """The figures are of one run; everything else is what the program prints."""
    (block,) = re.findall(r"<!-- demo output -->\n```\n(.*?)```", README, re.DOTALL)
    row = Row("square", (0.6, 0.0, 0.8, 0.3), (0.6, 0.0, 0.8, 0.3))
    lines = {without_numbers(line) for line in block.splitlines()}
    assert {without_numbers(f"    {row}"), *map(without_numbers, Score([row], [50.0]).summary().splitlines())} <= lines


def without_numbers(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "N", line)


def test_readme_commands_exist() -> None:
    from streamer.cli.main import app

    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {str(group.name) for group in app.registered_groups}
    assert set(re.findall(r"^\| `streamer (\w+)", README, re.MULTILINE)) == commands


def test_readme_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {
        target for block in blocks("sh") for target in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
    } <= targets


def test_readme_lists_the_tasks() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w*) ?\| (.+) \|$", README, re.MULTILINE)
    specs = model.find_pipeline().tasks().values()
    takes = {spec.task: "text" if spec.takes_text else "region" if spec.takes_region else "" for spec in specs}
    assert {task: (given, gives) for task, given, gives in rows} == {
        spec.task: (takes[spec.task], spec.summary) for spec in specs
    }


def result(name: str) -> Any:
    """Return what a benchmark measured, from `benchmarks/results`."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["result"]


def percent(share: float, digits: int = 0) -> str:
    return f"{share * 100:.{digits}f} %"


def measured_rows() -> list[tuple[str, str]]:
    """Return the label of each measured row of the README, and the figures that it must show."""
    work, exact = result("engine")["work"], result("exactness")["shipped, greedy"]
    schedule, ledger, view = result("schedule"), result("ledger")["ledger"][-1], result("view")
    live, ask, core = schedule["live"], schedule["ask"], schedule["capture"]["core_share"]
    drawn, view_ms = view["truth"]["shipped model"], view["cost"]["all of the view's process"]
    tasks = result("accuracy")["tasks"]
    boxes, phrase, region = (tasks[name] for name in SHAPE_TASKS)
    return [
        ("of one frame", f"{work['three tasks on one frame']['ratio']:.1f} times"),
        ("decoding per answer", f"{work['decoding per answer, many cameras']['ratio']:.1f} times"),
        (f"{exact['jobs']:,} prompts", f"all; {percent(exact['tokens_on_our_pixels'], 1)}"),
        ("frame age", f"{live['agent']['agent_p99_ms']:.0f} ms ({live['queue']['queue_p99_ms'] / 1000:.1f} s"),
        ("`streamer ask`", f"{ask['ask_p50_ms'] / 1000:.1f} s median, {ask['ask_max_ms'] / 1000:.1f} s at most"),
        ("capture of one", f"{percent(core['gates_off_core_share'])} of a core"),
        ("capture of one", f"{percent(core['key_frames_core_share'])} while only key frames"),
        ("annotated video", f"IoU {drawn['as_drawn']:.2f} with moved boxes, {drawn['hold_last']:.2f} if boxes stay"),
        ("annotated video", f"{percent(view_ms / 1000)} of a core"),
        ("events committed", f"{ledger['events_per_s'] // 1000},000 a second; {ledger['commit_p99_ms']:.0f} ms"),
        ("drawn scenes", f"recall {boxes['recall']:.2f}, mean IoU {boxes['mean_iou']:.2f}"),
        ("drawn scenes", f"recall {phrase['recall']:.2f} to {region['recall']:.2f}"),
        ("drawn scenes", f"mean IoU {phrase['mean_iou']:.2f} to {region['mean_iou']:.2f}"),
        ("drawn scenes", f"{percent(tasks['ocr, seen']['recall'])} of the trained words"),
        ("drawn scenes", f"{percent(tasks['ocr, held out']['recall'])} of others"),
    ]


def test_readme_figures_match_the_results() -> None:
    for label, figure in measured_rows():
        assert re.search(rf"^\|.*{re.escape(label)}.*\|.*{re.escape(figure)}", README, re.MULTILINE), (label, figure)


def test_readme_claim_of_equal_answers() -> None:
    assert result("shipped")["same_float32"] == {"answers": 3000, "equal": 1.0, "in_labels": {}, "in_locations": {}}


def test_readme_claim_of_no_missed_fault_target() -> None:
    faults = json.loads((ROOT / "benchmarks" / "results" / "chaos.json").read_text())
    assert "no target missed" in README
    assert all(row["good"] for fault in faults.values() for row in fault["result"]["rows"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        target, _, anchor = link.partition("#")
        if "://" not in link:
            assert (path.parent / target).exists(), link
            assert not anchor or anchor in anchors(path.parent / target), link


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_versions_agree() -> None:
    assert PROJECT["version"] == streamer.__version__


def test_constraints_pin_every_direct_dependency() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert set(pins) == requirements()
    assert pins["torch"] == "2.13.0"


def test_every_dependency_has_a_licence_row() -> None:
    text = (ROOT / "THIRD_PARTY_LICENSES.md").read_text()
    runtime = {re.split(r"[<>=!~ ]", line)[0] for line in PROJECT["dependencies"]}
    assert not [name for name in runtime if not re.search(rf"^\|.*\b{re.escape(name)}\b.*\|", text, re.MULTILINE)]
    assert "x264" in text


def test_systemd_unit_runs_the_installed_command() -> None:
    unit = (ROOT / "systemd" / "streamer@.service").read_text()
    assert "ExecStart=/opt/streamer/.venv/bin/streamer run --log-format json /etc/streamer/%i.yaml\n" in unit
    assert "RestartPreventExitStatus=2\n" in unit
    keys = re.findall(r"^(\w+)=", unit, re.MULTILINE)
    assert "RuntimeDirectory" in keys
    assert "StateDirectory" in keys


def test_no_document_names_a_path_of_one_machine() -> None:
    for path in [*DOCUMENTS, *ROOT.glob("configs/*"), *ROOT.glob("systemd/*"), ROOT / "Makefile"]:
        assert not re.search(r"/(work|root|farm)/", path.read_text()), path


# The Makefile, without installing anything


def make(folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path + os.environ["PATH"]}
    for name in ("MAKEFLAGS", "MAKELEVEL", "SECONDS", "VENV", "PYTHON"):
        environment.pop(name, None)
    return subprocess.run(
        ["make", "-f", ROOT / "Makefile", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_make_prints_the_command_for_missing_packages(tmp_path: Path) -> None:
    script(tmp_path, "id", "echo 1000")
    script(tmp_path, "dpkg-query", 'for last; do :; done; [ "$last" = ffmpeg ] && printf installed')
    done = make(tmp_path, "system-packages", path=f"{tmp_path}:")
    assert done.returncode != 0
    (command,) = [line.strip() for line in done.stdout.splitlines() if line.startswith("  sudo ")]
    assert command.startswith(
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium mosquitto python3-gi "
    )
    assert "gir1.2-gst-rtsp-server-1.0" in command
    assert "ffmpeg" not in command


def test_make_installs_system_packages_as_root(tmp_path: Path) -> None:
    script(tmp_path, "id", "echo 0")
    script(tmp_path, "dpkg-query", "exit 1")
    script(tmp_path, "apt-get", 'echo "apt-get $*"')
    done = make(tmp_path, "system-packages", path=f"{tmp_path}:")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["apt-get", "update"],
        ["apt-get", "install"],
    ]


def test_make_is_silent_when_all_packages_are_installed(tmp_path: Path) -> None:
    script(tmp_path, "dpkg-query", "printf installed")
    done = make(tmp_path, "system-packages", path=f"{tmp_path}:")
    assert (done.returncode, done.stdout) == (0, "")


def test_make_demo_passes_seconds(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = make(tmp_path, "-n", "demo", "SECONDS=20", "PYTHON=python3.99")
    assert "/bin/streamer demo --seconds 20\n" in done.stdout
    assert "python3.99 -m venv" in done.stdout
    assert "--seconds" not in make(tmp_path, "-n", "demo").stdout

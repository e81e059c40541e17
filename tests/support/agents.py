"""Runs the real program with all its processes: `streamer run` or `streamer watch`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Event = dict[str, Any]
LEAST_S = 60.0


def until(condition: Callable[[], T], timeout: float, why: str) -> T:
    """Poll `condition` and return its first true value. Raises AssertionError after the longer of `timeout` and 60 s.

    A test that checks how long something takes compares times: a busy computer must not fail the others.
    """
    timeout = max(timeout, LEAST_S)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"after {timeout} s still not: {why}")


class RunningAgent:
    """A `streamer` process and its children, with its own runtime and state folders; a context manager."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        events: Path | None = None,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "streamer.cli"),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, events or folder / "stdout.jsonl"
        runtime = folder / "run"
        runtime.mkdir(exist_ok=True)
        folders = {"XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(folder / "state")}
        self._read, self._events = b"", list[Event]()
        self.errors = folder / "stderr.log"
        with self.errors.open("ab") as errors, (folder / "stdout.jsonl").open("ab") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                env={**os.environ, **folders, **(environment or {})},
                stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
            )  # fmt: skip

    def __enter__(self) -> RunningAgent:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def events(self) -> list[Event]:
        """Return all complete events so far, in the order they were written. Each line is parsed once."""
        if not self.file.exists():
            return []
        data = self.file.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        if not data.startswith(self._read):  # the file was cut or is another one
            self._read, self._events = b"", []
        self._events += [json.loads(line) for line in data[len(self._read) :].split(b"\n")[:-1]]
        self._read = data
        return [*self._events]

    def results(self, stream: str | None = None) -> list[Event]:
        return [
            event
            for event in self.events()
            if event["type"] == "streamer.result.v1" and stream in (None, event["data"]["stream"])
        ]

    def statuses(self, subject: str, stream: str | None = None) -> list[Event]:
        return [
            event
            for event in self.events()
            if event["subject"] == subject and stream in (None, event["data"]["stream"])
        ]

    def wait_for_results(self, count: int, timeout: float, stream: str | None = None) -> list[Event]:
        def enough() -> list[Event]:
            if self.process.poll() is not None:
                raise AssertionError(f"the agent ended with {self.process.returncode}: {self.log()}")
            found = self.results(stream)
            return found if len(found) >= count else []

        return until(enough, timeout, f"{count} results; log: {self.log()}")

    def children(self) -> dict[str, int]:
        """Return process ids by name: `emit`, `infer`, `capture:gate`."""
        return {name: pid for name, pid in _children(self.process.pid)}

    def kill(self, child: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a child; return its process id."""
        pid = self.children()[child]
        os.kill(pid, number)
        return pid

    def kill_all(self) -> None:
        """Kill the parent and all its children at once, and wait until they have ended."""
        pids = [self.process.pid, *self.children().values()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not any(map(is_alive, pids)), 30, "all have ended")

    def stop(self, timeout: float = 12.0) -> float:
        """Send SIGTERM; return the seconds until the process has ended."""
        started = time.monotonic()
        self.process.terminate()
        self.process.wait(max(timeout, LEAST_S))
        return time.monotonic() - started

    def log(self) -> str:
        return self.errors.read_text(errors="replace")[-3000:]


def _children(parent: int) -> Iterator[tuple[str, int]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except (OSError, IndexError):
            continue
        if "streamer.processes.worker" in words:
            yield ":".join(filter(None, words[words.index("streamer.processes.worker") + 1 :])), int(folder.name)


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_identity(frames: dict[str, Any]) -> None:
    """Check that each captured frame is counted exactly once."""
    placed = frames["not_asked"] + frames["done"] + sum(frames["dropped"].values()) + frames["in_flight"]
    assert frames["captured"] == placed, frames


def assert_no_duplicates(events: Sequence[Event]) -> None:
    repeated = [key for key, count in Counter(event["id"] for event in events).items() if count > 1]
    assert not repeated


def assert_no_holes(events: Sequence[Event]) -> None:
    """Check that the sequences of each source are 1, 2, 3 …"""
    numbers: dict[str, list[int]] = {}
    for event in events:
        numbers.setdefault(event["source"], []).append(int(event["sequence"]))
    for source, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), source

"""Disk faults below the ledger, and clock steps. Disk faults that need `mount` are skipped without root."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from streamer.bus.event_channel import EventClient
from tests.chaos.bench import CAMERA, START_S, Row, Size, Skipped, agent, at_most, holes, is_so, median_at_most
from tests.support.agents import until
from tests.support.emit_process import EmitProcess
from tests.support.sample_events import event

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Sender:
    """Sends events to a running emit process and records which were accepted."""

    def __init__(self, runtime: Path) -> None:
        self.client = EventClient(runtime, "chaos")
        self.accepted: list[str] = []
        self._seq = 0

    def run(self, seconds: float) -> None:
        until_ = time.monotonic() + seconds
        while time.monotonic() < until_:
            while not self.client.window_full:
                self._seq += 1
                self.client.send(event(seq=self._seq), None)
            self.client.socket.poll(20)
            self.accepted += self.client.receive()
            self.client.resend()


@contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[Path]:
    place = folder / "mounted"
    place.mkdir(exist_ok=True)
    mount = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True, check=False)
    if mount.returncode:
        raise Skipped(mount.stderr.strip() or "mount failed")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _emit(folder: Path, state: Path, *sinks: dict[str, str]) -> EmitProcess:
    folder.mkdir(exist_ok=True)
    (folder / "state").symlink_to(state)
    return EmitProcess(folder, [{"kind": "jsonl", "path": str(folder / "events.jsonl")}, *sinks])


def _in_ledger(state: Path) -> dict[str, dict[str, Any]]:
    """Return the events in the ledger by id."""
    db = apsw.Connection(str(state / "ledger.db"))
    assert db.pragma("integrity_check") == "ok"
    return {str(key): json.loads(bytes(body)) for key, body in db.execute("SELECT id, body FROM events")}


def power_cut(folder: Path, size: Size) -> Iterator[Row]:
    """the power is cut (ext4 on a loop device, shut down without a flush)."""
    if shutil.which("mkfs.ext4") is None:
        raise Skipped("mkfs.ext4 is not installed")
    lost = accepted = 0
    for number in range(size.of(1, 5, 50)):
        here = folder / str(number)
        here.mkdir()
        image = here / "disk"
        with image.open("wb") as file:
            file.truncate(256 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        with _mounted(here, "-o", "loop", str(image)) as disk, _emit(here / "emit", disk) as emit:
            emit.wait_for("ready")
            sender = Sender(emit.runtime)
            sender.run(random.Random(number).uniform(1, 3))
            descriptor = os.open(disk, os.O_RDONLY)
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
            os.close(descriptor)
            sender.client.close()
            emit.kill()
        with _mounted(here, "-o", "loop", str(image)) as disk:
            lost += len(set(sender.accepted) - _in_ledger(disk).keys())
            accepted += len(sender.accepted)
    yield at_most(f"accepted events lost, of {accepted}", 0, lost)


def disk_full(folder: Path, size: Size) -> Iterator[Row]:
    """the disk with the ledger and an event file is full."""
    beside = {"kind": "jsonl", "name": "beside", "path": str(folder / "mounted" / "events.jsonl")}
    back: list[float] = []
    with (
        _mounted(folder, "-t", "tmpfs", "-o", "size=128m", "tmpfs") as disk,
        _emit(folder / "emit", disk, beside) as emit,
    ):
        emit.wait_for("ready")
        sender = Sender(emit.runtime)
        for _ in range(size.of(1, 3, 3)):
            sender.run(1)
            with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
                while True:
                    ballast.write(b"x" * 65536)
            sender.run(size.of(3, 10, 60))
            (disk / "ballast").unlink()
            before, began = len(sender.accepted), time.monotonic()
            while len(sender.accepted) == before and time.monotonic() - began < 30:
                sender.run(0.05)
            back.append(time.monotonic() - began)
        yield is_so("the process lives", emit.process.poll() is None)
        yield median_at_most("accepts again in", 5, back)
        sender.client.close()
        _wait_for_delivery(disk)
        emit.stop()
        files = {"jsonl": folder / "emit" / "events.jsonl", "beside": Path(beside["path"])}
        written = {name: [json.loads(line) for line in file.read_bytes().splitlines()] for name, file in files.items()}
        in_ledger = _in_ledger(disk)
        everything = {one["id"]: one for one in [*itertools.chain(*written.values()), *in_ledger.values()]}
        for name, events in written.items():
            times = Counter(one["id"] for one in events)
            counted = _unreported_losses(disk, name) + sum(
                one["data"]["lost"]["events"]
                for one in everything.values()
                if one["subject"] == "sink.lost" and one["source"].endswith(f"/sinks/{name}")
            )
            lost = len(set(sender.accepted) - set(times) - set(in_ledger))
            yield at_most(f"{name}: lost beyond {counted} counted", 0, max(0, lost - counted))
            yield at_most(f"{name}: events that came twice", 0, sum(count > 1 for count in times.values()))


def _wait_for_delivery(state: Path) -> None:
    """Wait until every sink has received all events."""
    db = apsw.Connection(str(state / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(1000)
    behind = "SELECT count(*) FROM cursor WHERE pos < (SELECT max(pos) FROM events)"
    until(lambda: db.execute(behind).fetchall() == [(0,)], 60, "everything is delivered")
    db.close()


def _unreported_losses(state: Path, sink: str) -> int:
    """Return the number of lost events that the ledger has recorded but not yet reported."""
    db = apsw.Connection(str(state / "ledger.db"))
    ((events,),) = db.execute("SELECT ifnull(sum(events), 0) FROM lost WHERE sink = ?", (sink,)).fetchall()
    assert isinstance(events, int)
    return events


def bytes_flipped(folder: Path, size: Size) -> Iterator[Row]:
    """bytes of a ledger in use are flipped, or its WAL is truncated."""
    rng, starts, dead = random.Random(1), list[float](), 0
    state = folder / "disk"
    state.mkdir()
    with _emit(folder / "emit", state) as emit:
        emit.wait_for("ready")
        sender = Sender(emit.runtime)
        sender.run(1)
        for number in range(size.of(2, 50, 500)):
            emit.kill()
            wal = state / "ledger.db-wal"
            if number % 5 == 0 and wal.exists():
                os.truncate(wal, rng.randrange(wal.stat().st_size + 1))
            else:
                _flip(state / "ledger.db", rng)
            failures = 0
            while not _recovers(emit, sender, starts):
                failures += 1
                if failures > 2:
                    dead += 1
                    break
        sender.client.close()
    yield at_most("the slowest start", 2, max(starts), " s")
    yield at_most("times it did not recover", 0, dead)


def _recovers(emit: EmitProcess, sender: Sender, starts: list[float]) -> bool:
    """Start emit; return whether it accepts events."""
    began = time.monotonic()
    emit.start()
    try:
        emit.wait_for("ready")
    except AssertionError:
        emit.kill()
        return False
    starts.append(time.monotonic() - began)
    known, until_ = len(sender.accepted), time.monotonic() + 10
    while emit.process.poll() is None and time.monotonic() < until_:
        sender.run(0.3)
        if len(sender.accepted) > known:
            return emit.process.poll() is None
    emit.kill()
    return False


def _flip(file: Path, rng: random.Random) -> None:
    with file.open("r+b") as ledger:
        for _ in range(8):
            ledger.seek(rng.randrange(file.stat().st_size))
            ledger.write(bytes([rng.randrange(256)]))


def clock_steps(folder: Path, size: Size) -> Iterator[Row]:
    """the system clock is set by an hour, back and forth."""
    library, file = folder / "clock.so", folder / "clock"
    source = Path(__file__).with_name("clock.c")
    if shutil.which("cc") is None:
        raise Skipped("cc is not installed")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    file.write_bytes(struct.pack("l", 0))
    environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(file)}
    with agent(folder, {"gate": CAMERA}, environment) as running:
        running.wait_for_results(5, START_S)
        epoch, times = running.results()[-1]["data"]["epoch"], []
        for hours in (1, -1, 0) * size.of(1, 5, 50):
            with file.open("r+b") as shared:
                shared.write(struct.pack("l", hours * 3600))
            known = len(running.results())
            running.wait_for_results(known + 5, 20)
            times.append(running.results()[-1]["time"])
        yield is_so("events follow the clock", times[0] > times[2] > times[1])
        yield at_most("restarts", 0, len(running.statuses("worker.restarted")))
        yield at_most("false camera losses", 0, len(running.statuses("stream.down")))
        yield at_most("stale answers", 0, sum(one["data"]["outcome"] == "stale" for one in running.results()))
        yield is_so("one connection all the time", running.results()[-1]["data"]["epoch"] == epoch)
        until(lambda: running.stop() < 10, 12, "the end")
        yield at_most("holes in the sequences", 0, holes(running.events()))

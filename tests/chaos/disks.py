"""Faults of the disk under the ledger, and of the clock. Mounting needs root; without it those say so."""

from __future__ import annotations

import fcntl
import json
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from streamer.bus.delivery import EventClient
from tests.agents import assert_no_holes, until
from tests.chaos.bench import CAMERA, START_S, Row, Size, agent_in, at_most, is_so
from tests.emit_process import EmitProcess
from tests.sample_events import event

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Sender:
    """Sends events to a running emit and knows which were accepted."""

    def __init__(self, runtime: Path) -> None:
        self.client = EventClient(runtime, "chaos")
        self.accepted: list[str] = []
        self._seq = 0

    def run(self, seconds: float) -> None:
        until_ = time.monotonic() + seconds
        while time.monotonic() < until_:
            while not self.client.full:
                self._seq += 1
                self.client.send(event(seq=self._seq), None)
            self.client.socket.poll(20)
            self.accepted += self.client.receive()
            self.client.resend()


@contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[Path]:
    place = folder / "mounted"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _emit(folder: Path, state: Path) -> EmitProcess:
    folder.mkdir(exist_ok=True)
    (folder / "state").symlink_to(state)
    return EmitProcess(folder, [{"kind": "jsonl", "path": str(folder / "events.jsonl")}])


def _in_ledger(state: Path) -> set[str]:
    db = apsw.Connection(str(state / "ledger.db"))
    assert db.pragma("integrity_check") == "ok"
    return {str(key) for (key,) in db.execute("SELECT id FROM events")}


def power_cut(folder: Path, size: Size) -> Iterator[Row]:
    """the power is cut (ext4 on a loop device, shut down without a flush)."""
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
            lost += len(set(sender.accepted) - _in_ledger(disk))
            accepted += len(sender.accepted)
    yield at_most(f"accepted events lost, of {accepted}", 0, lost)


def disk_full(folder: Path, size: Size) -> Iterator[Row]:
    """the ledger's disk is full."""
    with _mounted(folder, "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk, _emit(folder / "emit", disk) as emit:
        emit.wait_for("ready")
        sender = Sender(emit.runtime)
        sender.run(1)
        with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"x" * 65536)
        sender.run(size.of(3, 20, 120))
        yield is_so("the process lives", emit.process.poll() is None)
        (disk / "ballast").unlink()
        before, began = len(sender.accepted), time.monotonic()
        while len(sender.accepted) == before and time.monotonic() - began < 30:
            sender.run(0.1)
        yield at_most("accepts again in", 5, time.monotonic() - began, " s")
        sender.client.close()
        emit.stop()
        lines = (folder / "emit" / "events.jsonl").read_bytes().splitlines()
        events = [json.loads(line) for line in lines]
        lost = len(set(sender.accepted) - {one["id"] for one in events} - _in_ledger(disk))
        told = sum(one["data"]["lost"]["events"] for one in events if one["subject"] == "sink.lost")
        counted = told + _to_tell(disk)
        yield at_most(f"lost beyond the {counted} counted", 0, max(0, lost - counted))


def _to_tell(state: Path) -> int:
    """Losses that are written down in the ledger and will be told."""
    db = apsw.Connection(str(state / "ledger.db"))
    ((events,),) = db.execute("SELECT ifnull(sum(events), 0) FROM lost").fetchall()
    assert isinstance(events, int)
    return events


def bytes_flipped(folder: Path, size: Size) -> Iterator[Row]:
    """bytes of the ledger are flipped, or its WAL is cut."""
    chance, slowest, dead = random.Random(1), 0.0, 0
    state = folder / "disk"
    state.mkdir()
    with _emit(folder / "emit", state) as emit:
        emit.wait_for("ready")
        sender = Sender(emit.runtime)
        sender.run(1)
        sender.client.close()
        for number in range(size.of(2, 50, 500)):
            emit.kill()
            wal = state / "ledger.db-wal"
            if number % 5 == 0 and wal.exists():
                os.truncate(wal, chance.randrange(wal.stat().st_size + 1))
            else:
                _flip(state / "ledger.db", chance)
            began = time.monotonic()
            emit.start()
            try:
                emit.wait_for("ready")
            except AssertionError:
                dead += 1
            slowest = max(slowest, time.monotonic() - began)
    yield at_most("the slowest start", 2, slowest, " s")
    yield at_most("starts that failed", 0, dead)


def _flip(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as ledger:
        for _ in range(8):
            ledger.seek(chance.randrange(file.stat().st_size))
            ledger.write(bytes([chance.randrange(256)]))


def clock_steps(folder: Path, size: Size) -> Iterator[Row]:
    """the wall clock is set by an hour, back and forth."""
    library, file = folder / "clock.so", folder / "clock"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    file.write_bytes(struct.pack("l", 0))
    environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(file)}
    with agent_in(folder, {"gate": CAMERA}, environment) as running:
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
        yield at_most("cameras taken for lost", 0, len(running.statuses("stream.down")))
        yield is_so("one connection all the time", running.results()[-1]["data"]["epoch"] == epoch)
        until(lambda: running.stop() < 10, 12, "the end")
        assert_no_holes(running.events())

"""The best frame of an incident that a person calls wrong is collected with its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamer.config.model import Config, from_mapping
from streamer.core.jpeg import encode_jpeg
from streamer.events.build import command_event
from streamer.events.collected import CollectedFolder
from streamer.events.command_data import CommandData
from streamer.events.incident_data import IncidentFrame
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.query import LedgerQuery
from streamer.events.ledger.retention import Retention
from streamer.events.result_data import Snapshot
from streamer.events.schema import IncidentEvent
from streamer.events.snapshots.folder import SnapshotFolder
from streamer.events.snapshots.settings import Snapshots
from streamer.inference.collect_store import CollectStore
from streamer.processes.judgements import Judgements
from streamer.processes.wrong_incidents import WrongIncidents
from streamer.rules.incident import event_id
from streamer.toyworld.world import World
from tests.support import sample_events

INCIDENT = "ladder-gate"
RESULT = sample_events.event()


def config(**collect: Any) -> Config:
    stream = {
        "source": "synthetic",
        "tasks": [{"task": "object_detection"}],
        "zones": {"left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]},
        "collect": {"feedback": True, **collect},
    }
    rules = {"ladder": {"when": {"label": "person", "appears": True}}}
    return from_mapping({"agent": "home", "streams": {"gate": stream}, "rules": rules})


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Return the state folder of an agent with a result, its snapshot and an incident."""
    jpeg = encode_jpeg(World(3).scene(1.0).paint(640, 360), 90)
    assert jpeg is not None
    digest = hashlib.sha256(jpeg.content).hexdigest()
    snapshot = Snapshot(sha256=digest, bytes=len(jpeg.content), width=640, height=360)
    SnapshotFolder(tmp_path).write("gate", RESULT.id, jpeg.content)
    start = sample_events.incident()
    best = IncidentFrame(event=RESULT.id, epoch=1, seq=7, label="person", score=0.9, box=None, snapshot=snapshot)
    incident: IncidentEvent = start.model_copy(
        update={"id": event_id(INCIDENT, "start", 0), "data": start.data.model_copy(update={"best": best})}
    )
    with Ledger(tmp_path / LEDGER_FILE, "home", Retention(keep=1e9)) as ledger:
        ledger.commit([RESULT, incident])
        yield tmp_path


def judge(state: Path, verdict: Any, **collect: Any) -> CollectedFolder:
    command = CommandData(by="ann", incident=INCIDENT, verdict=verdict, rule="ladder", stream="gate")
    with closing(LedgerQuery(state / LEDGER_FILE)) as query:
        judgements = Judgements(state, query, WrongIncidents(state, config(**collect), query))
        for _ in range(2):  # events are read again after a crash
            judgements.on_event(command_event("home", "feedback", command))
    return CollectedFolder(state)


def test_wrong_incident_is_collected_once(state: Path) -> None:
    folder = judge(state, "wrong")
    ((picture, stored_at),) = folder.stored("gate")
    assert picture.record.reasons == ("feedback: incident ladder-gate of rule ladder is wrong, says ann",)
    assert (picture.record.epoch, picture.record.seq) == (1, 7)
    assert picture.record.taken_at == pytest.approx(1764000000.123456, abs=1e-3)
    assert folder.read(picture) == SnapshotFolder(state).file("gate", RESULT.id).read_bytes()
    (answer,) = picture.answers
    assert (answer.task, answer.model, answer.stream) == ("object_detection", "tiny", "gate")
    assert [(box.label, box.score) for box in answer.answer.boxes] == [("person", 0.93)]

    counted: list[int] = []
    settings = config().streams["gate"].collect
    assert settings is not None
    with CollectStore(folder, {"gate": settings}, Snapshots(), lambda _, times, __: counted.append(len(times))):
        pass
    assert counted == [0]  # feedback does not use up the limit of a day
    assert stored_at > 0


def test_masks_apply_to_wrong_incidents(state: Path) -> None:
    folder = judge(state, "wrong", masks=["left"])
    ((picture, _),) = folder.stored("gate")
    jpeg = folder.read(picture)
    assert jpeg is not None
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image[:, :300].max() < 16
    assert image[:, 340:].max() > 60
    assert picture.answers[0].answer.boxes == ()


def test_right_incident_and_lost_snapshot_are_not_collected(state: Path) -> None:
    assert judge(state, "right").stored("gate") == []
    SnapshotFolder(state).file("gate", RESULT.id).unlink()
    assert judge(state, "wrong").stored("gate") == []

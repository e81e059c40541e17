"""Collects the best frames of incidents that a person calls wrong."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from streamer.config.collect import masks_of
from streamer.config.model import Config
from streamer.core.errors import SnapshotError, WireError
from streamer.core.logs import RareLog
from streamer.core.reasons import reason_of
from streamer.events.collected import CollectedFolder, masked_jpeg, unmasked
from streamer.events.incident_data import IncidentData
from streamer.events.ledger.query import LedgerQuery
from streamer.events.part import unix_time
from streamer.events.result_data import ResultData
from streamer.events.schema import ResultEvent, decode
from streamer.events.snapshots.folder import SUFFIX, SnapshotFolder
from streamer.events.verdicts import Judgement
from streamer.types import Answer, Box, Point, Polygon, Region
from streamer.types.dataset import FEEDBACK, Annotation, CollectedPicture, PictureRecord

log = logging.getLogger(__name__)


class WrongIncidents:
    """Copies the snapshot of an incident and the answer about it. The limits of the stream delete it in time."""

    def __init__(self, state: Path, config: Config, query: LedgerQuery) -> None:
        """`state`: the state folder of the agent."""
        self._agent, self._query = config.name, query
        self._masks = {
            name: masks_of(stream.collect, stream.zones)
            for name, stream in config.streams.items()
            if stream.collect is not None and stream.collect.feedback
        }
        self._snapshots, self._collected = SnapshotFolder(state), CollectedFolder(state)
        self._failed = RareLog(log, "%s of wrong incidents not collected, stream %s: %s", noun="frame")

    def add(self, judgement: Judgement, incident: IncidentData) -> None:
        """Take a verdict on an incident."""
        if judgement.verdict != "wrong" or incident.stream not in self._masks or incident.best.snapshot is None:
            return
        try:
            self._collect(judgement, incident, self._masks[incident.stream])
        except (OSError, SnapshotError, WireError) as error:
            self._failed.add(incident.stream, reason_of(error, "collect"))

    def _collect(self, judgement: Judgement, incident: IncidentData, masks: tuple[tuple[Point, ...], ...]) -> None:
        best, stream = incident.best, incident.stream
        jpeg, blocks = masked_jpeg(self._snapshots.read(stream, best.event, best.snapshot), masks)
        entry = self._query.find(best.event)
        event = decode(entry.body) if entry is not None else None
        name = f"{stream}/{best.event}{SUFFIX}"
        answers: tuple[Annotation, ...] = ()
        taken_at = None
        if isinstance(event, ResultEvent) and event.data.result is not None:
            taken_at = unix_time(event.time)
            answers = (annotation(name, taken_at, event.data, masks),)
        reason = f"{FEEDBACK}: incident {incident.incident} of rule {incident.rule} is wrong, says {judgement.by}"
        digest = hashlib.sha256(jpeg).hexdigest()
        record = PictureRecord(name, stream, taken_at, best.epoch, best.seq, (reason,), blocks, digest)
        self._collected.write(stream, best.event, CollectedPicture(self._agent, record, answers), jpeg)


def annotation(name: str, taken_at: float, data: ResultData, masks: tuple[tuple[Point, ...], ...]) -> Annotation:
    """Return the answer of a result's event as an annotation of a picture."""
    result = data.result
    assert result is not None
    answer = Answer(
        text=result.text,
        score=result.score,
        boxes=tuple(Box(*box.box, box.label, box.score, box.track) for box in result.boxes),
        polygons=tuple(Polygon(one.points, one.label, one.score) for one in result.polygons),
    )
    region = Region(*data.region) if data.region else None
    return Annotation(name, data.task, unmasked(answer, masks), data.model, data.text, region, data.stream, taken_at)

"""`/api/snapshots/ID.jpg`: stored snapshots over a real connection, and requests for other files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamer.core.jpeg import encode_jpeg
from streamer.events.ledger import Ledger
from streamer.events.result_data import Snapshot
from streamer.events.schema import ResultEvent
from streamer.events.snapshots.folder import SnapshotFolder
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.sample_events import event, incident
from tests.support.web_process import CONFIG, WebProcess

TOKEN = "a-token-of-good-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
GREY = np.full((120, 160, 3), 90, np.uint8)


def with_snapshot(folder: Path, one: ResultEvent) -> ResultEvent:
    jpeg = encode_jpeg(GREY, 90)
    assert jpeg is not None
    SnapshotFolder(folder).write(one.data.stream, one.id, jpeg.content)
    digest = hashlib.sha256(jpeg.content).hexdigest()
    snapshot = Snapshot(sha256=digest, bytes=len(jpeg.content), width=160, height=120)
    return one.model_copy(update={"data": one.data.model_copy(update={"snapshot": snapshot})})


class Site:
    """A web process with a token, and a ledger with results and an incident."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good, self.damaged, self.gone, self.removed = (
            with_snapshot(folder, event(stream, seq)) for seq, stream in enumerate((STREAM, STREAM, STREAM, "x"))
        )
        self.plain = event(STREAM, 9)
        files = SnapshotFolder(folder)
        files.file(STREAM, self.damaged.id).write_bytes(b"other")
        files.file(STREAM, self.gone.id).unlink()
        best = incident(stream=STREAM)
        frame = best.data.best.model_copy(update={"event": self.good.id, "snapshot": self.good.data.snapshot})
        data = best.data.model_copy(update={"best": frame})
        self.incident = best.model_copy(update={"id": "1" * 32, "data": data})
        with Ledger(folder / "ledger.db") as ledger:
            ledger.commit([self.good, self.damaged, self.gone, self.removed, self.plain, self.incident])
        self.web = WebProcess(folder, {**CONFIG, "web": {"bind": "127.0.0.1:0", "token": TOKEN}})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("s"))
    with site.web:
        until(lambda: site.web.get("/healthz", BEARER).status, 10, "an answer")
        yield site


def test_result_and_incident_have_their_picture(site: Site) -> None:
    for one in (site.good, site.incident):
        plain = site.web.get(f"/api/snapshots/{one.id}.jpg", BEARER)
        assert (plain.status, plain.headers["content-type"]) == (200, "image/jpeg")
        assert site.good.data.snapshot is not None
        assert hashlib.sha256(plain.body).hexdigest() == site.good.data.snapshot.sha256
        drawn = site.web.get(f"/api/snapshots/{one.id}.jpg?boxes=1", BEARER)
        image = cv2.imdecode(np.frombuffer(drawn.body, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert np.abs(image.astype(int) - GREY).max() > 60


def test_picture_is_cached_by_its_reader_only(site: Site) -> None:
    first = site.web.get(f"/api/snapshots/{site.good.id}.jpg", BEARER)
    assert first.headers["cache-control"] == "private, max-age=3600, immutable"
    known = {**BEARER, "If-None-Match": first.headers["etag"]}
    again = site.web.get(f"/api/snapshots/{site.good.id}.jpg", known)
    assert (again.status, again.body) == (304, b"")
    assert site.web.get(f"/api/snapshots/{site.good.id}.jpg?boxes=1", known).status == 200


def test_picture_needs_the_token(site: Site) -> None:
    assert site.web.get(f"/api/snapshots/{site.good.id}.jpg").status == 401


def test_missing_pictures_are_told_apart(site: Site) -> None:
    for one, words in (
        (site.damaged, b"is damaged"),
        (site.gone, b"no longer kept"),
        (site.plain, b"has no snapshot"),
        (site.removed, b"has no snapshot"),  # its stream is not in the config
    ):
        answer = site.web.get(f"/api/snapshots/{one.id}.jpg", BEARER)
        assert answer.status == 404
        assert words in answer.body
    answer = site.web.get(f"/api/snapshots/{'e' * 32}.jpg", BEARER)
    assert (answer.status, b"the ledger has no event" in answer.body) == (404, True)


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fledger.db",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//etc/passwd",
        "%00",
        f"{'0' * 31}%0a",
        "A" * 32,
        "0" * 33,
        "0" * 5000,
        "' OR 1=1 --".replace(" ", "%20"),
        "%C3%A9" * 32,
    ],
)
def test_hostile_ids_reach_no_file(site: Site, name: str) -> None:
    answer = site.web.get(f"/api/snapshots/{name}.jpg", BEARER)
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert site.web.get(f"/api/snapshots/{site.good.id}.jpg", BEARER).status == 200


def test_metrics_count_new_snapshots(site: Site) -> None:
    def counted() -> bool:
        lines = site.web.get("/metrics", BEARER).body.decode().splitlines()
        return f'streamer_snapshots_total{{stream="{STREAM}"}} 1.0' in lines

    with Ledger(site.folder / "ledger.db") as ledger:
        ledger.commit([with_snapshot(site.folder, event(STREAM, 20))])
    until(counted, 10, "the new snapshot in the metrics")
